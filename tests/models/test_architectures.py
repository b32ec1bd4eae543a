"""What is read off the libraries' files is what they have."""

import pytest
from mlx_lm.utils import MODEL_REMAPPING, _get_classes
from mlx_vlm import embedding_loader
from mlx_vlm import utils as vlm_utils

from app.models.architectures import Architectures


def test_every_remapped_architecture_of_mlx_lm() -> None:
    architectures = Architectures()
    own = {name: architectures.implementation("lm", name) for name in MODEL_REMAPPING}
    # A table may name what the library does not have (yet).
    assert own.items() <= {name: own[name] and other for name, other in MODEL_REMAPPING.items()}.items()
    assert own["mistral"] == "llama"
    assert sum(name is not None for name in own.values()) > 5


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3_moe", "lfm2", "lille-130m", "t5", "bert", "falcon"])
def test_mlx_lm_says_the_same_of_an_architecture(name: str) -> None:
    try:
        module = _get_classes({"model_type": name})[0].__module__.removeprefix("mlx_lm.models.")
    except ValueError:
        module = None
    assert Architectures().implementation("lm", name) == module


def test_tables_of_mlx_vlm() -> None:
    architectures = Architectures()
    assert vlm_utils.MODEL_REMAPPING["lfm2-vl"] == architectures.implementation("vlm", "LFM2-VL")
    for name, other in embedding_loader.EMBEDDING_MODEL_REMAPPING.items():
        assert architectures.implementation("embeddings", name) == other
    assert architectures.implementation("embeddings", "bert") == "bert"


def test_faults() -> None:
    architectures = Architectures()
    assert architectures.fault("lm", "mistral") is None
    assert architectures.fault("lm", "t5") == "mlx_lm does not know its architecture, t5"
    assert architectures.fault("vlm", "nobody_vl") == "mlx_vlm does not know its architecture, nobody_vl"
    assert architectures.fault("whisper", "whisper") is None


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    # What Python itself looks at first: not importable.
    monkeypatch.setitem(sys.modules, "mlx_vlm", None)
    architectures = Architectures()
    assert architectures.fault("vlm", "qwen2_vl") == (
        "mlx_vlm is not installed: pip install 'mlx-openai-server[vision]'"
    )
    assert architectures.missing_library("embeddings") == (
        "mlx_vlm is not installed: pip install 'mlx-openai-server[embeddings]'"
    )
