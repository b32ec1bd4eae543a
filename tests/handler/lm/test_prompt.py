import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import load
from transformers import PreTrainedTokenizerBase

from app.core.conversation import Conversation, Message, RawPrompt
from app.core.requests import GenerationRequest, Sampling
from app.errors import ContextLengthExceeded, InvalidRequest
from app.handler.lm.defaults import GenerationDefaults
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from app.handler.lm.prompts.prompt import PromptBuilder
from app.handler.lm.sampling.sampling import SamplingParameters
from app.settings import ModelSpec
from tests.fixtures import tiny_tokenizers

DEFAULTS = GenerationDefaults(64, SamplingParameters(temperature=0.5))
HELLO = [Message("user", "hello")]


def builder(folder: Path, template: str | None = tiny_tokenizers.TEMPLATE, context_length: int = 512) -> PromptBuilder:
    tiny_tokenizers.write(folder, template=template)
    return builder_of(folder, context_length)


def builder_of(folder: Path, context_length: int = 512) -> PromptBuilder:
    tokenizer = load(folder)
    grammars = GrammarCompiler(tokenizer._tokenizer, 1024, tokenizer.eos_token_ids)
    return PromptBuilder(tokenizer, context_length, DEFAULTS, grammars, ModelSpec())


def rendered(prompts: PromptBuilder, request: GenerationRequest) -> str:
    return prompts._tokenizer.decode(prompts.prepare(request).prompt)


def test_the_conversation_in_the_models_own_words(tmp_path: Path) -> None:
    messages = [Message("system", "be brief"), Message("user", "h\u00e9llo \u4f60\u597d"), Message("assistant", "hi")]
    assert rendered(builder(tmp_path), GenerationRequest(Conversation(messages))) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nh\u00e9llo \u4f60\u597d<|im_end|>\n"
        "<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_markers_are_single_tokens_and_none_is_added(tmp_path: Path) -> None:
    prompt = builder(tmp_path).prepare(GenerationRequest(Conversation(HELLO))).prompt
    start, end = tiny_tokenizers.SPECIAL.index("<|im_start|>"), tiny_tokenizers.SPECIAL.index("<|im_end|>")
    assert prompt[0] == start
    assert (prompt.count(start), prompt.count(end)) == (2, 1)


def test_a_tokenizer_that_adds_a_token_of_its_own_does_not_add_it_twice(tmp_path: Path) -> None:
    backend = tiny_tokenizers.write(tmp_path, template="<|endoftext|>{{ messages[0].content }}")
    content = json.loads(backend.to_str())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    prompts = builder_of(tmp_path)
    assert prompts.prepare(GenerationRequest(Conversation(HELLO))).prompt.count(0) == 1


def test_names_and_template_arguments_reach_the_template(tmp_path: Path) -> None:
    prompts = builder(
        tmp_path, "{{ messages[0].name }} {{ messages[1].name is defined }} {{ mode }} {{ add_generation_prompt }}"
    )
    request = GenerationRequest(
        Conversation([Message("user", "x", "Ada"), *HELLO], template_arguments={"mode": "fast"})
    )
    assert rendered(prompts, request) == "Ada False fast True"


def test_what_a_request_leaves_open_is_filled_in(tmp_path: Path) -> None:
    prompts = builder(tmp_path)
    open_request = prompts.prepare(GenerationRequest(Conversation(HELLO)))
    assert (open_request.max_tokens, open_request.sampling, open_request.stop) == (64, DEFAULTS.sampling, ())
    asked = prompts.prepare(
        GenerationRequest(Conversation(HELLO), Sampling(temperature=0.0), max_tokens=3, stop=("a", "b"))
    )
    assert (asked.max_tokens, asked.sampling.temperature, asked.stop) == (3, 0.0, ("a", "b"))


def test_an_answer_that_was_begun_goes_on(tmp_path: Path) -> None:
    prompts = builder(tmp_path)
    asked = GenerationRequest(Conversation([*HELLO, Message("assistant", "Well, ")], continues_last=True))
    assert rendered(prompts, asked) == rendered(prompts, GenerationRequest(Conversation(HELLO))) + "Well, "
    assert prompts.prepare(asked).continues_text


def test_it_goes_on_behind_the_reasoning_that_a_template_opens(tmp_path: Path) -> None:
    thinking = tiny_tokenizers.TEMPLATE.replace(
        "assistant\n{% endif %}", "assistant\n<think>\n{% endif %}{# </think> #}"
    )
    prompts = builder(tmp_path, thinking)
    asked = GenerationRequest(Conversation([*HELLO, Message("assistant", "Well, ")], continues_last=True))
    assert rendered(prompts, asked).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nWell, ")
    reading = prompts.prepare(asked).reading
    assert reading is not None
    assert not reading.starts_in_reasoning


def test_xtc_spares_the_ends_of_answers_and_lines(tmp_path: Path) -> None:
    prompts = builder(tmp_path)
    spared = prompts.prepare(GenerationRequest(Conversation(HELLO), Sampling(xtc_probability=0.5))).sampling.xtc_spared
    assert [prompts._tokenizer.decode([token]) for token in spared] == ["<|im_end|>", "\n"]
    assert prompts.prepare(GenerationRequest(Conversation(HELLO))).sampling.xtc_spared == ()


class TestContext:
    def test_an_answer_is_clamped_to_the_room_that_is_left(self, tmp_path: Path) -> None:
        length = len(builder(tmp_path).prepare(GenerationRequest(Conversation(HELLO))).prompt)
        assert (
            builder(tmp_path, context_length=length + 5).prepare(GenerationRequest(Conversation(HELLO))).max_tokens == 5
        )
        asked = GenerationRequest(Conversation(HELLO), max_tokens=1000)
        assert builder(tmp_path, context_length=length + 1).prepare(asked).max_tokens == 1

    def test_a_prompt_that_leaves_no_room(self, tmp_path: Path) -> None:
        length = len(builder(tmp_path).prepare(GenerationRequest(Conversation(HELLO))).prompt)
        with pytest.raises(ContextLengthExceeded, match=rf"is {length} tokens.* has {length} tokens") as refusal:
            builder(tmp_path, context_length=length).prepare(GenerationRequest(Conversation(HELLO)))
        assert refusal.value.param == "messages"

    def test_a_huge_text_is_refused_by_its_beginning(self, tmp_path: Path) -> None:
        """Forty megabytes would take the tokenizer, and this test, most of a minute."""
        prompts = builder(tmp_path)
        with pytest.raises(ContextLengthExceeded, match="at least"):
            prompts.prepare(
                GenerationRequest(Conversation([Message("user", "some words, no end of them " * 1_500_000)]))
            )

    def test_a_text_just_over_the_limit_is_counted_exactly(self, tmp_path: Path) -> None:
        with pytest.raises(ContextLengthExceeded, match=r"has 9\d\d tokens"):
            builder(tmp_path).prepare(GenerationRequest(Conversation([Message("user", "x y" * 300)])))

    def test_an_empty_prompt(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="empty"):
            builder(tmp_path, "{{ '' }}").prepare(GenerationRequest(Conversation(HELLO)))


class TestTemplates:
    @pytest.mark.parametrize(
        "template",
        [
            "{{ raise_exception('Only user messages, please.') }}",
            "{{ messages[3].content }}",
            "{{ messages[0].content.nothing() }}",
            "{{ messages[0].content.__class__.x }}",
            "{{ messages | dictsort }}",
            "{{ messages + 1 }}",
            "{{ 1 / 0 }}",
            "{{ range(10 ** 9) }}",
            "{{ '%d' | format('x') }}",
            "{% if %}",
        ],
    )
    def test_a_template_that_refuses(self, tmp_path: Path, template: str) -> None:
        with pytest.raises(InvalidRequest, match="template does not accept") as refusal:
            builder(tmp_path, template).prepare(GenerationRequest(Conversation(HELLO)))
        assert refusal.value.param == "messages"

    def test_its_own_words_are_passed_on(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="Only user messages, please"):
            builder(tmp_path, "{{ raise_exception('Only user messages, please.') }}").prepare(
                GenerationRequest(Conversation(HELLO))
            )

    def test_no_template(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="--chat-template-file"):
            builder(tmp_path, None).prepare(GenerationRequest(Conversation(HELLO)))

    @pytest.mark.parametrize(
        "name",
        [
            name
            for name in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
            if name != "kwargs"
        ],
    )
    @pytest.mark.parametrize("value", [None, True, "x"])
    def test_the_methods_own_arguments_are_out_of_reach(self, tmp_path: Path, name: str, value: Any) -> None:
        with pytest.raises(InvalidRequest):
            builder(tmp_path).prepare(GenerationRequest(Conversation(HELLO, template_arguments={name: value})))


class TestRawPrompt:
    def test_a_text_is_tokenized_as_it_is(self, tmp_path: Path) -> None:
        prompts = builder(tmp_path)
        tokens = prompts.prepare(GenerationRequest(RawPrompt("hello there"))).prompt
        assert prompts.prepare(GenerationRequest(RawPrompt(tokens))).prompt == tokens

    def test_token_ids_are_checked(self, tmp_path: Path) -> None:
        for tokens, complaint in ([], "empty"), ([3, -1], "token -1"), ([10**6], "token 1000000"):
            with pytest.raises(InvalidRequest, match=complaint):
                builder(tmp_path).prepare(GenerationRequest(RawPrompt(tokens)))
