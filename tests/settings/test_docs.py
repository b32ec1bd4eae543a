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
    return all(getattr(owner, knob.field) not in (None, ()) for owner, knob in zip(owners, knobs, strict=True))


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


def test_the_uncommented_env_example_loads(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(uncommented(documents()[".env.example"]))
    (tmp_path / "template.jinja").write_text("")
    (tmp_path / "pictures").mkdir()
    write_access_files(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    assert examples_apply(load_settings({"no_log_file": "false"}, {}, tmp_path), KNOBS)


def test_the_uncommented_yaml_example_loads(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(uncommented(documents()["config.example.yaml"]))
    (tmp_path / "template.jinja").write_text("")
    (tmp_path / "pictures").mkdir()
    write_access_files(tmp_path)
    settings = load_settings({"config": "config.yaml"}, {}, tmp_path)
    assert examples_apply(settings, KNOBS)
    assert settings.models[0].model_path == SAMPLE_MODEL
