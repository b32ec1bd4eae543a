"""What this project relies on in mlx_lm, beyond what its documents promise. A new version has to pass here first."""

import gc
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.generate import _extend_cache, _merge_caches
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import dequantize_model

from tests.fixtures import tiny_lm
from tests.fixtures.tiny_lm import Loaded

# Of different lengths: shorter and longer than the rotating caches, and one token.
PROMPTS = (
    [5, 6, 7],
    [(7 * place) % 900 for place in range(40)],
    [9],
    [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2],
)
NEXT = [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [41, 42, 43, 44]]


def test_the_version_is_the_pinned_one() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    dependencies: list[str] = pyproject["project"]["dependencies"]
    assert f"mlx-lm=={version('mlx-lm')}" in dependencies


def prefilled(model: nn.Module, prompt: list[int]) -> list[Any]:
    cache = make_prompt_cache(model)
    model(mx.array([prompt]), cache=cache)
    mx.eval([layer.state for layer in cache])
    return cache


def fed(model: nn.Module, cache: list[Any], tokens: list[int]) -> np.ndarray[Any, Any]:
    """Logits after one token for each row, shape (rows, vocabulary)."""
    return np.array(model(mx.array(tokens)[:, None], cache=cache)[:, -1, :])


def alone(model: nn.Module, prompt: list[int], tokens: list[int]) -> np.ndarray[Any, Any]:
    """Logits after each of `tokens` without any cache, shape (tokens, vocabulary)."""
    logits = model(mx.array([[*prompt, *tokens]]))
    return np.array(logits[0, len(prompt) :])


class TestCaches:
    def test_one_cache_for_each_layer(self, model_folder: Callable[[str], Path]) -> None:
        kinds = {
            "llama": [KVCache] * 4,
            "gemma3": [RotatingKVCache] * 3 + [KVCache],
            "lfm2": [ArraysCache] * 2 + [KVCache, ArraysCache],
        }
        for name, expected in kinds.items():
            assert [type(layer) for layer in make_prompt_cache(load(str(model_folder(name)))[0])] == expected

    def test_merged_caches_are_of_the_batched_kind(self, model_folder: Callable[[str], Path]) -> None:
        model = load(str(model_folder("gemma3")))[0]
        merged = _merge_caches([prefilled(model, prompt) for prompt in PROMPTS])
        assert [type(layer) for layer in merged] == [BatchRotatingKVCache] * 3 + [BatchKVCache]

    def test_a_merged_batch_has_each_rows_logits(self, batched: Loaded) -> None:
        cache = _merge_caches([prefilled(batched.model, prompt) for prompt in PROMPTS])
        for step in range(4):
            logits = fed(batched.model, cache, [tokens[step] for tokens in NEXT])
            for row, prompt in enumerate(PROMPTS):
                expected = alone(batched.model, prompt, NEXT[row])[step]
                np.testing.assert_allclose(logits[row], expected, atol=1e-4, rtol=1e-4)

    def test_rows_join_and_leave_a_batch(self, batched: Loaded) -> None:
        """Extended while it runs, filtered while it runs: those who stay never notice."""
        cache = _merge_caches([prefilled(batched.model, prompt) for prompt in PROMPTS[:2]])
        fed(batched.model, cache, [NEXT[0][0], NEXT[1][0]])
        cache = _extend_cache(cache, _merge_caches([prefilled(batched.model, prompt) for prompt in PROMPTS[2:]]))
        fed(batched.model, cache, [NEXT[0][1], NEXT[1][1], NEXT[2][0], NEXT[3][0]])
        for layer in cache:
            layer.filter(mx.array([1, 3]))
        logits = fed(batched.model, cache, [NEXT[1][2], NEXT[3][1]])
        for row, (index, step) in enumerate([(1, 2), (3, 1)]):
            expected = alone(batched.model, PROMPTS[index], NEXT[index])[step]
            np.testing.assert_allclose(logits[row], expected, atol=1e-4, rtol=1e-4)

    def test_a_new_batch_takes_prompts_of_different_lengths_padded_on_the_right(self, batched: Loaded) -> None:
        prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[3]]
        cache = _merge_caches([make_prompt_cache(batched.model) for _ in prompts])
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        for layer in cache:
            layer.prepare(lengths=[len(prompt) for prompt in prompts], right_padding=padding)
        batched.model(
            mx.array([[*prompt, *[0] * pad] for prompt, pad in zip(prompts, padding, strict=True)]), cache=cache
        )
        mx.eval([layer.state for layer in cache])
        for layer in cache:
            layer.finalize()
        logits = fed(batched.model, cache, [NEXT[0][0], NEXT[1][0], NEXT[3][0]])
        for row, index in enumerate([0, 1, 3]):
            expected = alone(batched.model, PROMPTS[index], NEXT[index])[0]
            np.testing.assert_allclose(logits[row], expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("row", range(len(PROMPTS)))
    def test_an_extracted_row_goes_on_alone(self, batched: Loaded, row: int) -> None:
        cache = _merge_caches([prefilled(batched.model, prompt) for prompt in PROMPTS])
        fed(batched.model, cache, [tokens[0] for tokens in NEXT])
        own = [layer.extract(row) for layer in cache]
        assert [type(layer) for layer in own] == [type(layer) for layer in make_prompt_cache(batched.model)]
        expected = alone(batched.model, PROMPTS[row], NEXT[row])
        for step in (1, 2):
            np.testing.assert_allclose(
                fed(batched.model, own, [NEXT[row][step]])[0], expected[step], atol=1e-4, rtol=1e-4
            )

    def test_evaluating_the_states_computes_a_chunk_and_frees_all_but_the_cache(self, batched: Loaded) -> None:
        cache = make_prompt_cache(batched.model)
        # What earlier tests have left behind is not to go or come in between.
        gc.collect()
        mx.synchronize()
        before = mx.get_active_memory()
        batched.model(mx.array([PROMPTS[1]]), cache=cache)
        assert mx.get_active_memory() - before < 1000
        mx.eval([layer.state for layer in cache])
        size = sum(layer.nbytes for layer in cache)
        mx.synchronize()
        assert size <= mx.get_active_memory() - before < 2 * size

    def test_caches_that_cannot_be_batched_have_no_merge(self, model_folder: Callable[[str], Path]) -> None:
        caches = make_prompt_cache(load(str(model_folder("llama4")))[0])
        assert [hasattr(layer, "merge") for layer in caches] == [False, False, False, True]
        with pytest.raises(ValueError, match="does not yet support batching"):
            _merge_caches([caches, caches])


class TestLoad:
    def test_it_returns_a_model_and_a_wrapped_tokenizer_first(self, llama_folder: Path) -> None:
        model, tokenizer = load(
            str(llama_folder), tokenizer_config={"trust_remote_code": False}, trust_remote_code=False
        )[:2]
        assert isinstance(model, nn.Module)
        assert isinstance(tokenizer, TokenizerWrapper)

    def test_the_weights_keep_their_type(self, llama: Loaded) -> None:
        weights = dict(tree_flatten(llama.model.parameters()))
        assert {str(getattr(array, "dtype", None)) for array in weights.values()} == {"mlx.core.float32"}
        assert llama.model(mx.array([[1]])).shape == (1, 1, tiny_lm.VOCABULARY_SIZE)

    @pytest.mark.parametrize(("eos", "expected"), [(2, {2}), ([2, 5], {2, 5}), ([7], {2, 7})])
    def test_end_tokens_come_from_generation_config_and_the_tokenizer(
        self, tmp_path: Path, eos: object, expected: set[int]
    ) -> None:
        folder = tiny_lm.llama(tmp_path / "model")
        (folder / "generation_config.json").write_text(f'{{"eos_token_id": {eos}}}')
        assert load(str(folder))[1].eos_token_ids == expected

    def test_a_broken_generation_config_is_passed_over(self, tmp_path: Path) -> None:
        folder = tiny_lm.llama(tmp_path / "model")
        (folder / "generation_config.json").write_text("{")
        assert load(str(folder))[1].eos_token_ids == {2}

    def test_quantized_layers_become_plain_ones(self, llama_folder: Path) -> None:
        model = load(str(llama_folder))[0]
        nn.quantize(model, group_size=32, bits=8)
        quantized = np.array(model(mx.array([[3, 4, 5]])))
        dequantize_model(model)
        kinds = {type(module) for _, module in model.named_modules()}
        assert {nn.Linear, nn.Embedding} < kinds
        assert not {nn.QuantizedLinear, nn.QuantizedEmbedding} & kinds
        np.testing.assert_allclose(np.array(model(mx.array([[3, 4, 5]]))), quantized, atol=1e-3, rtol=1e-3)


class TestTokenizerWrapper:
    @pytest.fixture
    def tokenizer(self, llama_folder: Path) -> TokenizerWrapper:
        return load(str(llama_folder))[1]

    def render(self, tokenizer: TokenizerWrapper, **arguments: object) -> str:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True, **arguments
        )
        assert isinstance(text, str)
        return text

    def test_the_tokenizer_inside(self, tokenizer: TokenizerWrapper) -> None:
        assert tokenizer._tokenizer.backend_tokenizer.token_to_id("<|im_end|>") == 2
        assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [2]
        assert max(tokenizer.get_vocab().values()) < tiny_lm.VOCABULARY_SIZE

    def test_a_template_is_rendered_to_text(self, tokenizer: TokenizerWrapper) -> None:
        assert tokenizer.has_chat_template
        assert self.render(tokenizer) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

    def test_a_template_that_is_set_is_the_one_rendered(self, tokenizer: TokenizerWrapper) -> None:
        tokenizer.chat_template = "{{ messages[0].content }} and {{ other }}"
        assert self.render(tokenizer, other="more") == "hi and more"

    def test_without_a_template_there_is_one_once_it_is_set(self, tmp_path: Path) -> None:
        folder = tiny_lm.llama(tmp_path / "model")
        (folder / "chat_template.jinja").unlink()
        tokenizer = load(str(folder))[1]
        assert not tokenizer.has_chat_template
        tokenizer.chat_template = "{{ messages[0].content }}"
        tokenizer.has_chat_template = True
        assert tokenizer.has_chat_template
        assert self.render(tokenizer) == "hi"

    def test_end_tokens_are_a_set_of_ids(self, tokenizer: TokenizerWrapper) -> None:
        assert tokenizer.eos_token_ids == {2}

    def test_its_own_text_of_a_row_is_ours(self, llama: Loaded) -> None:
        """mlx_lm's detokenizer as a second opinion on what greedy decoding says."""
        detokenizer = llama.tokenizer.detokenizer
        tokens = [token for token in llama.greedy([5, 6], 60) if token < len(llama.tokenizer.get_vocab())]
        for token in tokens:
            detokenizer.add_token(token)
        detokenizer.finalize()
        assert re.sub("\ufffd+", "\ufffd", detokenizer.text) == re.sub("\ufffd+", "\ufffd", llama.decode(tokens))
