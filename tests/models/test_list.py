"""`models list` and `models info`: what is seen of a cache as huggingface_hub lays it out."""

import json
import time
from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer

from app.handler.lm.prompts.chat_template import ChatTemplate
from app.models.architectures import Architectures
from app.models.servability import fault_of
from app.text.detection import Detected
from tests.fixtures.hub import files_of, write_cached
from tests.models.conftest import Run

HERMES = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}<tool_call>{% endif %}<tool_call></tool_call>"


def renamed(files: dict[str, bytes], **config: object) -> dict[str, bytes]:
    """The files with these fields in config.json."""
    return files | {"config.json": json.dumps(json.loads(files["config.json"]) | config).encode()}


@pytest.fixture
def llama_files(llama_folder: Path) -> dict[str, bytes]:
    return files_of(llama_folder)


def test_of_every_model_what_its_files_say(models: Run, cache: Path, llama_files: dict[str, bytes]) -> None:
    repository = write_cached(cache, "owner/llama", llama_files)
    packed = renamed(llama_files, model_type="mistral", quantization={"bits": 4, "group_size": 32})
    write_cached(cache, "owner/packed", packed)
    found = {one["name"]: one for one in models("list", "--json").json}
    assert [name for name in found if "/" not in name] == [
        "smollm2-135m-instruct",
        "all-minilm-l6-v2",
        "whisper-tiny.en",
    ]
    llama = found["owner/llama"]
    assert (llama["origin"], llama["kind"], llama["context_length"]) == ("hub", "lm", 512)
    assert llama["size_bytes"] == sum(map(len, llama_files.values()))
    assert llama["architecture"] == "llama"
    assert 0 <= time.time() - llama["last_used_s"] < 600
    assert Path(llama["place"]) == next((repository / "snapshots").iterdir())
    assert found["owner/packed"]["architecture"] == "mistral (loaded as llama)"
    assert found["owner/packed"]["quantisation"] == "4-bit, groups of 32"
    assert [one["fault"] for one in found.values()] == [None] * 5


def test_a_table_for_people(models: Run, tmp_path: Path, llama_files: dict[str, bytes]) -> None:
    cache = tmp_path / "elsewhere"
    write_cached(cache, "owner/llama", llama_files)
    write_cached(cache, "owner/readme", {"README.md": b"# Nothing"})
    ended = models("list", HF_HUB_CACHE=str(cache))
    head, *rows = ended.output.splitlines()
    assert head.split() == ["NAME", "KIND", "SIZE", "CONTEXT", "WEIGHTS", "LAST", "USED"]
    (row,) = (row for row in rows if row.startswith("owner/llama"))
    assert row.split()[1:6] == ["lm", *f"{sum(map(len, llama_files.values())) / 2**20:.1f} MiB".split(), "512", "-"]
    assert row.index("lm") == head.index("KIND")
    assert "owner/readme" not in ended.output
    assert rows[-1] == "1 cannot be served; --all says why."
    everything = models("list", "--all", HF_HUB_CACHE=str(cache)).output
    assert "owner/readme  0.0 MiB\n  it has no config.json.\n" in everything


def test_without_a_cache_there_are_the_samples(models: Run) -> None:
    assert len(models("list", "--json").json) == 3


def test_why_a_model_of_the_cache_cannot_be_served(models: Run, cache: Path, llama_files: dict[str, bytes]) -> None:
    write_cached(cache, "owner/old", llama_files, ref="v1")
    begun = {name: data for name, data in llama_files.items() if not name.endswith(".safetensors")}
    half = write_cached(cache, "owner/half", begun)
    (half / "blobs" / "abc.incomplete").write_bytes(bytes(1000))
    (cache / "models--owner--nothing" / "blobs").mkdir(parents=True)
    (cache / "models--owner--nothing" / "blobs" / "abc.incomplete").write_bytes(bytes(10))
    write_cached(cache, "owner/t5", renamed(llama_files, model_type="t5"))
    (cache / "datasets--owner--data" / "snapshots").mkdir(parents=True)
    everything = {one["name"]: one for one in models("list", "--all", "--json").json}
    faults = {name: one["fault"] for name, one in everything.items() if one["fault"]}
    assert faults == {
        "owner/half": "its download was interrupted: `mlx-openai-server models pull owner/half` goes on with it",
        "owner/nothing": "its download was interrupted: `mlx-openai-server models pull owner/nothing` goes on with it",
        "owner/old": f"only another revision is here: {next((cache / 'models--owner--old' / 'snapshots').iterdir())}",
        "owner/t5": "mlx_lm does not know its architecture, t5",
    }
    assert everything["owner/half"]["size_bytes"] == sum(map(len, begun.values())) + 1000
    assert everything["owner/nothing"]["size_bytes"] == 10


LLAMA = b'{"model_type": "llama"}'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README.md": b""}, "it has no config.json"),
        ({"adapter_config.json": b"{}", "adapters.safetensors": b""}, "it is an adapter and no model"),
        ({"a.Q4_0.gguf": b"GGUF"}, "only .gguf files: serve one of them by its path"),
        ({"config.json": LLAMA, "pytorch_model.bin": b""}, "it has PyTorch weights only (pytorch_model.bin)"),
        ({"config.json": LLAMA}, "it has no weights (*.safetensors)"),
        ({"config.json": LLAMA, "model.safetensors": b"version https://git-lfs"}, "git lfs pull"),
        ({"config.json": b"{}"}, "names no model_type"),
        ({"config.json": b"{"}, "cannot be read"),
    ],
)
def test_why_a_folder_cannot_be_served(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    fault = fault_of(tmp_path, Architectures())
    assert fault is not None
    assert said in fault
    assert not fault.endswith(".")


def test_weights_under_names_that_the_library_does_not_read(llama_files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in llama_files.items():
        (tmp_path / name.replace("model.safetensors", "consolidated.safetensors")).write_bytes(content)
    assert fault_of(tmp_path, Architectures()) == (
        "none of its weights are in files that mlx_lm reads (model*.safetensors)"
    )
    (tmp_path / "consolidated.safetensors").rename(tmp_path / "model.safetensors")
    assert fault_of(tmp_path, Architectures()) is None


def test_a_speaker_without_voices(tmp_path: Path, llama_files: dict[str, bytes]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "kokoro"}')
    (tmp_path / "kokoro.safetensors").write_bytes(llama_files["model.safetensors"])
    assert fault_of(tmp_path, Architectures()) == "it has no voices (voices/*.safetensors)"
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "a.safetensors").write_bytes(llama_files["model.safetensors"])
    assert fault_of(tmp_path, Architectures()) is None


def test_an_image_model(models: Run, cache: Path, llama_files: dict[str, bytes]) -> None:
    part = llama_files["model.safetensors"]
    places = ("transformer", "vae", "text_encoder")
    parts = {f"{place}/{place}.safetensors": place.encode() + part for place in places}
    write_cached(cache, "owner/damaged", {"model_index.json": b"{}", **parts})
    whole = {name: data.removeprefix(name.partition("/")[0].encode()) for name, data in parts.items()}
    write_cached(cache, "owner/painter", {"model_index.json": b"{}", **whole})
    found = {one["name"]: one for one in models("list", "--all", "--json").json}
    assert (found["owner/painter"]["kind"], found["owner/painter"]["fault"]) == ("images", None)
    assert "text_encoder/text_encoder.safetensors" in found["owner/damaged"]["fault"]


class TestInfo:
    def test_of_a_cached_model(self, models: Run, cache: Path, llama_files: dict[str, bytes]) -> None:
        write_cached(cache, "owner/llama", llama_files | {"chat_template.jinja": HERMES.encode()})
        about = models("info", "owner/llama", "--json").json
        assert about["found"]["context_length"] == 512
        # Two tables of the vocabulary and four layers.
        layer = 64 * (4 + 2 + 2 + 4) * 16 + 3 * 64 * 96 + 2 * 64
        assert about["num_parameters"] == 2 * 1024 * 64 + 4 * layer + 64
        assert about["memory_bytes"] > 256 * 2**20 + 4 * about["num_parameters"]
        assert about["has_chat_template"] is True
        # The same as the server finds with the loaded tokenizer.
        loaded = ChatTemplate(load_tokenizer(Path(about["found"]["place"])))
        assert Detected(about["family"], about["why"]) == loaded.detected
        assert about["family"] is not None
        assert about["capabilities"] == ["chat", "tools"]
        assert about["launch"] == "mlx-openai-server launch --model-path owner/llama"

    def test_is_told_to_people_in_lines(self, models: Run, llama_folder: Path) -> None:
        ended = models("info", llama_folder)
        rows = dict(line.split("  ", 1) for line in ended.output.splitlines())
        told = {label: text.strip() for label, text in rows.items()}
        assert told["kind"] == "lm"
        assert told["architecture"] == "llama"
        assert told["context"] == "512 tokens"
        assert told["parameters"] == "0.3 million"
        assert told["chat template"] == "there"
        assert told["serve it"] == f"mlx-openai-server launch --model-path {llama_folder}"
        assert "once it is loaded" in told["memory"]

    def test_of_what_cannot_be_served(self, models: Run, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        ended = models("info", "empty")
        assert ended.status == 0
        assert "it has no config.json." in ended.output
        assert "launch" not in ended.output

    def test_of_a_sample(self, models: Run) -> None:
        about = models("info", "All-MiniLM-L6-v2", "--json").json
        assert (about["found"]["origin"], about["found"]["kind"]) == ("sample", "embeddings")
        assert about["capabilities"] == ["embeddings"]
        assert about["has_chat_template"] is None

    def test_of_what_is_not_here(self, models: Run) -> None:
        assert models("info", "owner/absent").refusal == (
            "owner/absent is not on this machine; `mlx-openai-server models pull owner/absent` would fetch it."
        )
        for path in ("./absent", __file__):
            assert models("info", path).refusal.startswith(f"{path} is no model's folder and no .gguf file;")
