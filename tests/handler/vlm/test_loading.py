import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache

from app.errors import ModelLoadError
from app.handler.lm.kv.caches import BatchCache
from app.handler.open import open_handler
from app.handler.vlm.handler import VLMHandler
from app.handler.vlm.language import LanguageSide
from app.settings import ModelSpec
from tests.fixtures.driving import Log
from tests.fixtures.pictures import picture
from tests.fixtures.seeing import HERE, Seeing, asked, said
from tests.fixtures.vlm_library import Library, load_library

FolderOf = Callable[[str], Path]
LibraryOf = Callable[[str], Library]
WIDE = picture(100, 80)


@pytest.mark.parametrize("model_type", [None, "multimodal", "vlm"])
def test_a_folder_with_a_vision_part_is_served_so(
    model_type: str | None, seeing_folder: FolderOf, tmp_path: Path
) -> None:
    spec = ModelSpec.model_validate({"model_path": str(seeing_folder("qwen2_vl")), "model_type": model_type})
    assert type(open_handler(spec, tmp_path, Log().emit, print)) is VLMHandler


def test_its_code_runs_only_if_it_is_trusted(seeing_folder: FolderOf, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeing_folder("qwen2_vl"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_file": "own.py"}), encoding="utf-8")
    (folder / "own.py").write_text("import sys\nsys.own_code_ran = True\n", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="--trust-remote-code"):
        Seeing(folder)
    assert not hasattr(sys, "own_code_ran")


def test_a_template_that_only_the_processor_has(seeing_folder: FolderOf, tmp_path: Path) -> None:
    """As older folders have it: in chat_template.json."""
    folder = Path(shutil.copytree(seeing_folder("qwen2_vl"), tmp_path / "model"))
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    request = asked(said(f"{HERE}what?", WIDE))
    assert Seeing(folder).answer(request).text == Seeing(seeing_folder("qwen2_vl")).answer(request).text


def test_the_end_of_an_answer_may_be_named_with_the_text(seeing_folder: FolderOf, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeing_folder("qwen3_vl"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config.pop("eos_token_id") == [2]  # which the tokenizer knows, too
    config["text_config"]["eos_token_id"] = 1
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Seeing(folder).handler._prompts._tokenizer.eos_token_ids == {1, 2}


def test_half_precision_weights_are_prepared_with_their_eyes(
    seeing_folder: FolderOf, library: LibraryOf, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(seeing_folder("qwen2_vl"), tmp_path / "model"))
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    half = {name: array.astype(mx.bfloat16) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half, metadata={"format": "mlx"})
    seeing = Seeing(folder)
    assert seeing.answer(asked(said(f"{HERE}what?", WIDE))).text
    tower = seeing.handler.tower
    assert tower is not None
    kinds = {array.dtype for _, array in tree_flatten(tower.language.parameters()) if isinstance(array, mx.array)}
    assert kinds == {mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16}


class TestLanguageSide:
    def test_positions_that_only_the_model_itself_knows(self, seeing_folder: FolderOf) -> None:
        whole = load_library(seeing_folder("qwen2_vl")).model
        whole.config.model_type = "hunyuan_vl"  # type: ignore[union-attr]
        with pytest.raises(ModelLoadError, match="hunyuan_vl"):
            LanguageSide(whole)

    def test_caches_are_of_the_classes_that_can_be_kept(self, library: LibraryOf) -> None:
        language = LanguageSide(library("gemma3").model)
        assert [type(layer) for layer in language.make_cache()] == [RotatingKVCache] * 3 + [KVCache]

    @pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
    def test_rows_of_text_beside_each_other_are_the_librarys_alone(self, name: str, library: LibraryOf) -> None:
        """Padded to one length in prefill, each at a place of its own after it."""
        whole = library(name).model
        language = LanguageSide(whole)
        rows = [[5, 6, 7, 8, 9, 10, 11], [30, 31, 32]]
        cache = BatchCache.of([language.make_cache() for _ in rows])
        cache.feed(language, rows)
        together = language(mx.array([[40], [41]]), cache=cache.layers)
        for place, row in enumerate(rows):
            fed = mx.array([[*row, 40 + place]])
            positions, _ = whole.language_model.get_rope_index(fed)  # type: ignore[operator]
            alone = whole.language_model(fed, position_ids=positions).logits  # type: ignore[operator]
            assert mx.allclose(together[place, -1], alone[0, -1], rtol=1e-4, atol=1e-4)
