"""`mlx-openai-server connect`, beside a running server."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from app.connect.recipes import RECIPES, Target
from tests.e2e.processes import ServerProcess

TARGET = Target("http://127.0.0.1:8000", 'org/a "model"', 'k"ey')


def connect(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "connect", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | (environment or {}), timeout=60
    )


def explained(server: ServerProcess, name: str) -> str:
    done = connect(name, "--url", server.url)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_the_server_and_its_model(server: ServerProcess, name: str) -> None:
    text = explained(server, name)
    assert server.url in text
    # Open WebUI asks the server itself.
    assert "tiny/llama" in text or name == "open-webui"


def test_the_python_recipe_runs(server: ServerProcess) -> None:
    code = explained(server, "python")
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_files_are_to_hold_can_be_read_whatever_the_model_is_called() -> None:
    codex = tomllib.loads(section(RECIPES["codex"].explain(TARGET)))
    assert codex["model"] == TARGET.model
    assert codex["model_providers"][codex["model_provider"]]["base_url"] == "http://127.0.0.1:8000/v1"
    opencode = json.loads(section(RECIPES["opencode"].explain(TARGET)))
    assert opencode["provider"]["mlx"]["options"] == {"baseURL": "http://127.0.0.1:8000/v1", "apiKey": TARGET.key}
    assert list(opencode["provider"]["mlx"]["models"]) == [TARGET.model]
    (model,) = yaml.safe_load(section(RECIPES["continue"].explain(TARGET)))["models"]
    assert (model["model"], model["apiKey"]) == (TARGET.model, TARGET.key)
    (model,) = yaml.safe_load(section(RECIPES["llm"].explain(TARGET)))
    assert model["model_name"] == TARGET.model


def section(text: str) -> str:
    """What stands between the sentence that names the file and the one after it."""
    return text.partition(":\n\n")[2].partition("\n\nThen:")[0]


@pytest.mark.parametrize(("name", "variable"), [("claude", "ANTHROPIC_BASE_URL"), ("codex", "MLX_OPENAI_SERVER_KEY")])
def test_run_becomes_the_client(server: ServerProcess, tmp_path: Path, name: str, variable: str) -> None:
    program = tmp_path / name
    program.write_text(f'#!/bin/sh\necho "${variable}"\nprintf "%s\\n" "$@"\nexit 7\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = connect(name, "--url", server.url, "--run", "--", "--print", "hi", environment={"PATH": path})
    assert done.returncode == 7
    lines = done.stdout.splitlines()
    assert lines[0] == (server.url if name == "claude" else "none")
    assert lines[-2:] == ["--print", "hi"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("claude", "--url", "http://127.0.0.1:1"), "No server answers at http://127.0.0.1:1"),
        (("cline", "--run", "--url", "{url}"), "Cline has to be set up by hand"),
        (("claude", "--url", "{url}", "--model", "other"), "has no model 'other'; it has tiny/llama"),
        (("claude", "--url", "{url}/nowhere"), "is no such server"),
        (("claude", "--url", "{url}", "--", "--print"), "need --run"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(server: ServerProcess, arguments: tuple[str, ...], sentence: str) -> None:
    done = connect(*(argument.replace("{url}", server.url) for argument in arguments))
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_is_not_installed(server: ServerProcess, tmp_path: Path) -> None:
    done = connect("claude", "--url", server.url, "--run", environment={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "Claude Code is not installed" in done.stderr


def test_the_address_and_the_key_come_from_where_launch_takes_them(server: ServerProcess) -> None:
    done = connect("claude", environment={"PORT": str(server.port), "API_KEY": "secret"})
    assert done.returncode == 0, done.stderr
    assert server.url in done.stdout
    assert "secret" in done.stdout
