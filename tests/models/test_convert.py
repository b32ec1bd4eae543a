"""`models convert`: mlx_lm's conversion, in a process of its own."""

import json
import os
import resource
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import load

from app.core.conversion import Conversion
from app.errors import ModelLoadError
from app.models.conversion import run_conversion
from tests.e2e.processes import descendants, eventually
from tests.fixtures import tiny_bert, tiny_lm
from tests.fixtures.hub import files_of, write_cached
from tests.models.conftest import Run


def norm_type(folder: Path) -> mx.Dtype:
    """Of weights that are never quantised."""
    return dict(tree_flatten(load(str(folder))[0].parameters()))["model.norm.weight"].dtype


def test_to_fewer_bits(models: Run, llama_folder: Path, tmp_path: Path) -> None:
    ended = models("convert", llama_folder, "small", "--bits", 4, "--group-size", 32, "--dtype", "float16")
    assert ended.status == 0, ended.errors
    assert ended.output.splitlines()[-1] == "Serve it: mlx-openai-server launch --model-path small"
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (4, 32)
    assert norm_type(tmp_path / "small") == mx.float16
    assert {path.name for path in tmp_path.iterdir()} & {".small.unfinished", ".small.lock"} == set()
    about = models("info", "small", "--json").json
    assert about["found"]["quantisation"] == "4-bit, groups of 32"
    assert models("convert", "small", "smaller", "--bits", 2).refusal == (
        "small has weights of 4 bits already; convert the model it was made of."
    )
    assert "small exists already" in models("convert", llama_folder, "small", "--bits", 8).refusal


def test_a_cached_model_to_another_type(models: Run, cache: Path, tmp_path: Path) -> None:
    write_cached(cache, "owner/qwen", files_of(tiny_lm.qwen2(tmp_path / "qwen")))
    ended = models("convert", "owner/qwen", tmp_path / "half", "--dtype", "bfloat16", HF_HUB_OFFLINE="1")
    assert ended.status == 0, ended.errors
    assert norm_type(tmp_path / "half") == mx.bfloat16


def test_what_cannot_be_converted(models: Run, llama_folder: Path, tmp_path: Path) -> None:
    tiny_bert.write(tmp_path / "bert")
    assert "is of kind embeddings; only language models" in models("convert", "bert", "new").refusal
    broken = tmp_path / "broken"
    broken.mkdir()
    for name, content in files_of(llama_folder).items():
        (broken / name).write_bytes(content)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    assert models("convert", "broken", "new", "--bits", 4).refusal.startswith("broken cannot be converted: ")
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    assert models("convert", "broken", "new").refusal == (
        "broken cannot be converted: mlx_lm does not know its architecture, t5."
    )
    assert "cannot be reached" in models("convert", "owner/absent", "new", HF_HUB_OFFLINE="1").refusal
    # Nothing half done is left behind.
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(models: Run, llama_folder: Path, tmp_path: Path) -> None:
    # Files of more bytes cannot be written, which children inherit.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refusal = models("convert", llama_folder, "new", "--dtype", "float32").refusal
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refusal.startswith(f"{llama_folder} cannot be converted: ")
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == []


def converters() -> list[int]:
    """Processes of this one's that convert."""
    command = ["ps", "-o", "args=", "-p"]
    others = descendants(os.getpid()) - {os.getpid()}
    arguments = {
        pid: subprocess.run([*command, str(pid)], capture_output=True, text=True, check=False).stdout for pid in others
    }
    return [pid for pid, said in arguments.items() if "app.handler.conversion" in said]


def test_a_process_that_is_killed_is_a_sentence(tmp_path: Path) -> None:
    # It waits for what this pipe would say.
    os.mkfifo(tmp_path / "config.json")
    asked = Conversion("mine", str(tmp_path), str(tmp_path / "new"), str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_conversion, asked)
        eventually(converters, "a process that converts")
        for pid in converters():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelLoadError, match=r"mine cannot be converted: its process died \(SIGKILL\)"):
            running.result()


@pytest.mark.parametrize("options", [["--group-size", "32"], ["--bits", "7"], ["--dtype", "int8"]])
def test_options_that_mean_nothing(models: Run, llama_folder: Path, options: list[str]) -> None:
    assert models("convert", llama_folder, "new", *options).status == 2
