"""The documents about settings are what the settings say, and the examples work."""

import re
from pathlib import Path

import pytest

from app.settings import MODEL_KNOBS, SAMPLE_MODEL, SERVER_KNOBS, Settings, load_settings
from app.settings.docs import documents, write_documents
from app.settings.knobs import Knob
from tests.settings.examples import write_access_files

ROOT = Path(__file__).parents[2]
KNOBS = (*SERVER_KNOBS, *MODEL_KNOBS)


def uncommented(text: str) -> str:
    return re.sub(r"^(\s*)#(?=\w)", r"\1", text, flags=re.MULTILINE)


def examples_apply(settings: Settings, knobs: tuple[Knob, ...]) -> bool:
    """Whether every setting without a default has the value of its example."""
    owners = [settings if knob in SERVER_KNOBS else settings.models[0] for knob in knobs]
    return all(getattr(owner, knob.field) not in (None, (), {}) for owner, knob in zip(owners, knobs, strict=True))


def without(text: str, name: str) -> tuple[str, tuple[Knob, ...]]:
    """An example without a setting that another one rules out, and the knobs that are left in it."""
    kept = [line for line in text.splitlines() if not re.match(rf"\s*{name}\s*[=:]", line, re.IGNORECASE)]
    assert len(kept) == len(text.splitlines()) - 1
    return "\n".join(kept), tuple(knob for knob in KNOBS if knob.field != name)


@pytest.mark.parametrize("name", list(documents()))
def test_the_committed_document_is_the_generated_one(name: str) -> None:
    assert (ROOT / name).read_text() == documents()[name], "run make docs"


def test_documents_are_written_where_they_belong(tmp_path: Path) -> None:
    write_documents(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in documents()} == documents()


@pytest.mark.parametrize("knob", KNOBS, ids=[knob.field for knob in KNOBS])
def test_every_setting_is_explained_in_every_document(knob: Knob) -> None:
    assert knob.help.endswith(".")
    assert knob.default
    assert (knob.kind == "switch") == (not knob.metavar)
    env, yaml, page = documents().values()
    assert env.count(f"\n#{knob.names[0].upper()}=") == 1
    assert len(re.findall(rf"^\W*{knob.names[0]}: ", yaml, re.MULTILINE)) == int(knob.in_yaml)
    assert page.count(f"\n| `--{knob.names[0].replace('_', '-')}`") == 1


def test_examples_as_they_are_give_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(documents()[".env.example"])
    (tmp_path / "config.yaml").write_text(documents()["config.example.yaml"])
    from_files = load_settings({"config": "config.yaml"}, {}, tmp_path)
    (tmp_path / ".env").unlink()
    assert from_files.model_copy(update={"config": None}) == load_settings({}, {}, tmp_path)


@pytest.mark.parametrize("left_out", ["adapter_path", "adapters"])
def test_the_uncommented_env_example_loads(left_out: str, tmp_path: Path) -> None:
    text, knobs = without(uncommented(documents()[".env.example"]), left_out)
    (tmp_path / ".env").write_text(text)
    (tmp_path / "template.jinja").write_text("")
    (tmp_path / "pictures").mkdir()
    write_access_files(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    assert examples_apply(load_settings({"no_log_file": "false"}, {}, tmp_path), knobs)


@pytest.mark.parametrize("left_out", ["adapter_path", "adapters"])
def test_the_uncommented_yaml_example_loads(left_out: str, tmp_path: Path) -> None:
    text, knobs = without(uncommented(documents()["config.example.yaml"]), left_out)
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "template.jinja").write_text("")
    (tmp_path / "pictures").mkdir()
    write_access_files(tmp_path)
    settings = load_settings({"config": "config.yaml"}, {}, tmp_path)
    assert examples_apply(settings, knobs)
    assert settings.models[0].model_path == SAMPLE_MODEL
