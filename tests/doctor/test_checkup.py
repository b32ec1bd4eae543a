"""`mlx-openai-server doctor` as a program: what it finds, what it advises, and how it ends."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.core import machine
from tests.fixtures import tiny_bert

ROOT = Path(__file__).parents[2]
UNWRITABLE = "/proc" if sys.platform == "linux" else "/System"


class Report:
    """What a run printed: of each subject its level and the rest of its lines."""

    def __init__(self, directory: Path, *arguments: object, python: str = sys.executable, **environ: str) -> None:
        ended = subprocess.run(
            [python, "-m", "app.cli", "doctor", *map(str, arguments)],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.status, self.text = ended.returncode, ended.stdout + ended.stderr
        rows = re.findall(r"^(ok|warning|problem) +(\S+(?: \S+)*)  +(.*(?:\n +fix: .*)?)", ended.stdout, re.MULTILINE)
        self.levels = {subject: level for level, subject, _ in rows}
        self.found = {subject: rest for _, subject, rest in rows}

    def assert_has(self, subject: str, level: str, *words: str) -> None:
        assert self.levels.get(subject) == level, self.text
        for word in words:
            assert word in self.found[subject], self.text


def write_model(folder: Path, num_bytes: int, model_type: str = "llama") -> Path:
    """A model of 16-bit weights that take no room on disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    tensor = {"dtype": "BF16", "shape": [num_bytes // 2], "data_offsets": [0, num_bytes]}
    head = json.dumps({"w": tensor}).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(path, path.stat().st_size + num_bytes)
    return folder


def report_without(left_out: str, directory: Path, *arguments: object, **environ: str) -> Report:
    """A run without the installed packages whose names begin so."""
    folder = directory / "packages"
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    folder.mkdir()
    for path in site.iterdir():
        if not path.name.startswith(left_out) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    # The interpreter outside of the virtual environment has only what it is given.
    python: str = getattr(sys, "_base_executable")  # noqa: B009
    return Report(directory, *arguments, python=python, PYTHONPATH=f"{ROOT}{os.pathsep}{folder}", **environ)


def test_nothing_is_wrong_with_a_model_that_can_be_served(llama_folder: Path, tmp_path: Path) -> None:
    report = Report(tmp_path, "--model-path", llama_folder, "--port", 0, "--store-in-memory")
    assert report.status == 0, report.text
    assert "problem" not in report.levels.values()
    report.assert_has(f"model {llama_folder}", "ok", "of kind lm")
    report.assert_has(f"memory for {llama_folder}", "ok", "GiB that models may take")
    for subject in ("machine", "MLX", "versions", "kind lm", "port", "access", "cache folder"):
        report.assert_has(subject, "ok")
    assert "store" not in report.levels


def test_a_missing_extra_a_taken_port_a_too_large_model_and_no_blas_are_found(tmp_path: Path) -> None:
    huge, whisper = write_model(tmp_path / "huge", 2**40), write_model(tmp_path / "whisper", 2**20, "whisper")
    (tmp_path / "config.yaml").write_text(f"models: [{{model_path: {huge}}}, {{model_path: {whisper}}}]")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = ("--config", "config.yaml", "--port", port)
        report = report_without("mlx_whisper", tmp_path, *arguments, LD_PRELOAD="")
    assert report.status == 1, report.text
    report.assert_has("kind whisper", "warning", "(mlx_whisper)", "pip install 'mlx-openai-server[whisper]'")
    report.assert_has(f"model {whisper}", "problem", "(mlx_whisper)", "pip install 'mlx-openai-server[whisper]'")
    report.assert_has("kind lm", "ok")
    report.assert_has("port", "problem", f"127.0.0.1:{port}", "--port")
    report.assert_has(f"memory for {huge}", "problem", "1024.", "--memory-budget")
    report.assert_has(f"memory for {whisper}", "ok")
    if sys.platform == "linux" and machine.computes_on_cpu():
        report.assert_has("BLAS", "warning", "libopenblas0-pthread")


def test_without_mlx_the_rest_is_checked_all_the_same(tmp_path: Path) -> None:
    report = report_without("mlx", tmp_path, "--model-path", "owner/absent", "--port", 0)
    assert report.status == 1
    report.assert_has("MLX", "problem", "No module named 'mlx'", "pip install")
    report.assert_has("model owner/absent", "warning", "hf download owner/absent")
    report.assert_has("port", "ok")


def test_models_and_places(llama_folder: Path, tmp_path: Path) -> None:
    half = write_model(tmp_path / "half", 2**20)
    os.truncate(half / "model.safetensors", 1000)
    (tmp_path / "hub" / "models--owner--begun" / "blobs").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "keys.yaml").write_text("alice: sk-alice")
    (tmp_path / "keys.yaml").chmod(0o644)
    (tmp_path / "config.yaml").write_text(
        f"server: {{port: 0, cache_dir: file, store_path: {UNWRITABLE}/store.sqlite3, api_keys_file: keys.yaml,"
        f" memory_budget: 300MiB, ssl_certfile: file}}\n"
        f"models:\n"
        f"  - model_path: {half}\n"
        f"  - model_path: owner/begun\n"
        f"  - model_path: owner/absent\n"
        f"  - model_path: /no/such/folder\n"
        f"  - model_path: smollm2-135m-instruct\n"
        f"  - {{model_path: {llama_folder}, served_model_name: one}}\n"
        f"  - {{model_path: {llama_folder}, served_model_name: two}}\n"
    )
    report = Report(tmp_path, "--config", "config.yaml", HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    assert report.status == 1
    report.assert_has(f"model {half}", "problem", "model.safetensors has 1000 of its", "download it again")
    report.assert_has("model owner/begun", "problem", "interrupted", "hf download owner/begun")
    report.assert_has("model owner/absent", "problem", "HF_HUB_OFFLINE is set", "hf download owner/absent")
    report.assert_has("model /no/such/folder", "problem", "does not exist")
    report.assert_has("model smollm2-135m-instruct", "ok", "sample")
    report.assert_has("memory for one", "ok")
    report.assert_has("all models", "problem", "together", "on_demand")
    report.assert_has("cache folder", "problem", "is a file")
    report.assert_has("store", "problem", "cannot be written to")
    report.assert_has("keys file", "warning", "chmod 600")
    report.assert_has("HTTPS", "problem", "--ssl-certfile")
    assert "sk-alice" not in report.text


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--prot", "1"], ["more"]])
def test_wrong_options_are_refused_as_launch_does(tmp_path: Path, arguments: list[str]) -> None:
    report = Report(tmp_path, *arguments)
    assert report.status == 2
    assert report.text.startswith("Error: ")
    assert report.text.count("\n") == 1


def test_models_to_be_found(llama_folder: Path, tmp_path: Path) -> None:
    own = ("--port", 0, "--store-in-memory", "--models-dir", "models")
    report = Report(tmp_path, *own)
    report.assert_has("models to be found", "problem", "models, does not exist", "fix: make it")
    assert report.status == 1
    (tmp_path / "models").write_text("no folder")
    Report(tmp_path, *own).assert_has("models to be found", "problem", "models, is no folder", "fix: name another one")
    (tmp_path / "models").unlink()
    (tmp_path / "models").mkdir()
    report = Report(tmp_path, *own)
    assert report.status == 0
    report.assert_has("models to be found", "warning", "none", "models pull")
    (tmp_path / "models" / "llama").symlink_to(llama_folder)
    os.truncate(write_model(tmp_path / "models" / "half", 2**20) / "model.safetensors", 1000)
    report = Report(tmp_path, *own)
    report.assert_has("models to be found", "ok", "1 can be served, and 1 cannot")
    report.assert_has("found half", "warning", "1000 of its")


def test_adapters(llama_folder: Path, tmp_path: Path) -> None:
    for name in ("whole", "cut", "begun", "peft"):
        adapter = write_model(tmp_path / name, 2**10)
        (adapter / "config.json").rename(adapter / "adapter_config.json")
        (adapter / "model.safetensors").rename(adapter / "adapters.safetensors")
    os.truncate(tmp_path / "cut" / "adapters.safetensors", 100)
    (tmp_path / "begun" / "adapters.safetensors").unlink()
    (tmp_path / "peft" / "adapter_model.safetensors").write_bytes(b"")
    names = ("whole", "cut", "begun", "peft", "absent")
    entries = ", ".join(
        f"{{model_path: {llama_folder}, served_model_name: with {name}, adapter_path: {name}}}" for name in names
    )
    (tmp_path / "config.yaml").write_text(f"server: {{port: 0, store_in_memory: true}}\nmodels: [{entries}]")
    report = Report(tmp_path, "--config", "config.yaml")
    assert report.status == 1
    report.assert_has("adapter whole of with whole", "ok")
    report.assert_has("adapter cut of with cut", "problem", "adapters.safetensors", "mlx_lm.lora")
    report.assert_has("adapter begun of with begun", "problem", "adapters.safetensors is missing")
    report.assert_has("adapter peft of with peft", "problem", "PEFT")
    report.assert_has("adapter absent of with absent", "problem", "does not exist")


def test_adapters_that_the_model_cannot_have(llama_folder: Path, tmp_path: Path) -> None:
    for name, style in (("plain", "lora"), ("dora", "dora")):
        adapter = write_model(tmp_path / name, 2**10)
        (adapter / "config.json").unlink()
        (adapter / "adapter_config.json").write_text(json.dumps({"fine_tune_type": style}))
        (adapter / "model.safetensors").rename(adapter / "adapters.safetensors")
    bert = tiny_bert.write(tmp_path / "bert")
    common = ("--port", "0", "--store-in-memory")
    report = Report(tmp_path, "--model-path", llama_folder, "--adapter", "a=plain", "--adapter", "b=dora", *common)
    assert report.status == 1
    report.assert_has(f"adapter a of {llama_folder}", "ok")
    report.assert_has(f"adapter b of {llama_folder}", "problem", "type dora", "--adapter-path")
    report = Report(tmp_path, "--model-path", bert, "--adapter", "a=plain", *common)
    report.assert_has(f"adapter a of {bert}", "problem", "kind embeddings takes no adapters")
