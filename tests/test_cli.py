"""The command line: parsing, help, and how it says no."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app import __version__
from app.cli import KNOBS, cli, given_flags, launch, with_default_command
from app.settings import ModelSpec, Settings, load_settings
from app.settings.knobs import NOT_YET, TOPICS, Knob

ROOT = Path(__file__).parents[1]


def parsed(directory: Path, *arguments: str) -> Settings:
    context = launch.make_context("launch", list(arguments))
    return load_settings(given_flags(context.params), {}, directory)


def model(directory: Path, *arguments: str) -> ModelSpec:
    return parsed(directory, *arguments).models[0]


def refused(*arguments: str) -> str:
    with pytest.raises(click.ClickException) as caught:
        launch.make_context("launch", list(arguments))
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.format_message()
    return caught.value.format_message()


def run(module: str, directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a module of ours in a directory, with nothing in the environment but what is given."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "warmup"),
    [
        ([], True),
        (["--mlx-warmup"], True),
        (["--no-mlx-warmup"], False),
        (["--mlx-warmup", "true"], True),
        (["--mlx-warmup", "false"], False),
        (["--mlx-warmup=false"], False),
        (["--mlx-warmup=True"], True),
        (["--mlx-warmup", "--port", "1"], True),
        (["--no-mlx-warmup", "--mlx-warmup"], True),
        (["--mlx-warmup", "--no-mlx-warmup"], False),
    ],
)
def test_warmup(tmp_path: Path, arguments: list[str], warmup: bool) -> None:
    assert model(tmp_path, *arguments).warmup is warmup


def test_values_and_aliases(tmp_path: Path) -> None:
    spec = model(tmp_path, "--temperature", "0.1", "--max-tokens=5", "--presence-penalty", "-1", "--top-k", "3")
    assert (spec.default_temperature, spec.default_max_tokens, spec.default_presence_penalty) == (0.1, 5, -1)
    assert spec.default_top_k == 3


def test_repeated_flags(tmp_path: Path) -> None:
    settings = parsed(
        tmp_path,
        "--api-key",
        "a",
        "--api-key",
        "b",
        "--allowed-origins",
        "http://a,http://b",
        "--port",
        "1",
        "--port=2",
    )
    assert [key.get_secret_value() for key in settings.api_key] == ["a", "b"]
    assert settings.allowed_origins == ("http://a", "http://b")
    assert settings.port == 2


def test_switches(tmp_path: Path) -> None:
    settings = parsed(tmp_path, "--verbose", "--log-json", "--no-log-file", "--log-prompts=false")
    assert (settings.log_level, settings.log_json, settings.log_prompts) == ("DEBUG", True, False)


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_flags_of_later_are_refused_by_name(name: str) -> None:
    flag = "--" + name.replace("_", "-")
    assert refused("--port", "1", flag, "4") == f"{flag} is not supported yet"
    assert refused(f"{flag}=4") == f"{flag} is not supported yet"


def test_wrong_arguments_are_refused_in_one_sentence() -> None:
    assert "--prot" in refused("--prot", "1")
    assert "--port" in refused("--prot", "1")
    assert "requires an argument" in refused("--port")
    assert "sk-secret" not in refused("--apikey=sk-secret")


def test_help_lists_every_setting_once_with_its_variable_and_default() -> None:
    text = CliRunner().invoke(cli, ["launch", "--help"]).output
    flat = re.sub(r"[-\s]+", "", text)
    for knob in KNOBS:
        flag = "--" + knob.names[0].replace("_", "-")
        assert len(re.findall(rf"^  {flag}\b(?!-)", text, re.MULTILINE)) == 1
        expected = f"[env: {', '.join(knob.names).upper()}; default: {knob.default}]"
        assert flat.count(re.sub(r"[-\s]+", "", f"{knob.help} {expected}")) == 1
    assert [line.rstrip(":") for line in text.splitlines() if re.match(r"\w.*:$", line)] == [*TOPICS, "Other"]


def test_every_option_belongs_to_a_setting() -> None:
    flags = {option for parameter in launch.params for option in parameter.opts}
    assert flags == {"--" + name.replace("_", "-") for knob in KNOBS for name in knob.names}


def test_help_does_not_read_the_environment(tmp_path: Path) -> None:
    shown = run("app.cli", tmp_path, "launch", "--help", API_KEY="sk-secret", PORT="wrong")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "sk-secret" not in shown.stdout


def test_the_group() -> None:
    runner = CliRunner()
    assert runner.invoke(cli, ["--version"]).output == f"mlx-openai-server, version {__version__}\n"
    assert "launch" in runner.invoke(cli, ["--help"]).output
    assert runner.invoke(cli, ["lunch"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "x"], "Error: --port must be a whole number, not 'x'\n"),
        ([f"--{min(NOT_YET).replace('_', '-')}", "4"], "is not supported yet\n"),
        (["--api-key", "one", "sk-two"], "Error: launch takes only options, but 1 of its arguments belong to none\n"),
        (["--config", "none.yaml"], "none.yaml' does not exist\n"),
        (["--host", "0.0.0.0"], "ALLOW_UNAUTHENTICATED=true\n"),
    ],
)
def test_wrong_settings_are_one_line_on_stderr_and_status_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = run("app.cli", tmp_path, "launch", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.endswith(said)
    assert ended.stderr.count("\n") == 1


def test_environment_and_env_file_of_the_working_directory_are_read(tmp_path: Path) -> None:
    assert "TOP_P must be" in run("app.cli", tmp_path, "launch", TOP_P="7").stderr
    (tmp_path / ".env").write_text("TOP_P=7\n")
    assert "TOP_P in .env must be" in run("app.cli", tmp_path, "launch").stderr


@pytest.mark.parametrize(
    ("arguments", "completed"),
    [
        ([], ["launch"]),
        (["--port", "9000"], ["launch", "--port", "9000"]),
        (["--port", "1", "--help"], ["launch", "--port", "1", "--help"]),
        (["launch", "--port", "1"], ["launch", "--port", "1"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
    ],
)
def test_launch_is_the_default_command(arguments: list[str], completed: list[str]) -> None:
    assert with_default_command(arguments) == completed


def test_running_the_main_module(tmp_path: Path) -> None:
    bogus = run("app.main", tmp_path, "--bogus")
    assert (bogus.returncode, bogus.stderr.count("\n")) == (2, 1)
    assert "--bogus" in bogus.stderr
    assert "Commands:" in run("app.main", tmp_path, "--help").stdout


def test_the_command_line_is_ready_without_what_only_some_starts_need(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "import sys, app.cli\n"
        "heavy = {'yaml', 'dotenv', 'platformdirs', 'fastapi', 'uvicorn', 'mlx', 'transformers', 'numpy'}\n"
        "heavy |= {'huggingface_hub', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert run("show", tmp_path).stdout == "[]\n"


def test_help_rows_fit_their_knobs() -> None:
    kinds: dict[str, list[Knob]] = {}
    for knob in KNOBS:
        kinds.setdefault(knob.kind, []).append(knob)
    lists = {"allow_models", "api_key", "allowed_origins", "lora_paths", "lora_scales"}
    assert {knob.field for knob in kinds["list"]} == lists
    assert {knob.field for knob in kinds["paths"]} == {"adapters"}
    assert {knob.field for knob in kinds["path"]} == {
        "adapter_path",
        "api_keys_file",
        "media_root",
        "models_dir",
        "ssl_certfile",
        "ssl_keyfile",
        "cache_dir",
        "chat_template_file",
        "config",
        "conversation_logs_dir",
        "store_path",
        "log_file",
        "prompt_cache_dir",
    }
