"""Renders the documents about settings from the settings; `python -m app.settings.docs` writes them."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.settings import MODEL_KNOBS, SAMPLE_MODEL, SERVER_KNOBS
from app.settings.knobs import NOT_YET, TOPICS, Knob, Topic, flag_of, variable_of
from app.settings.types import named_paths

KNOBS = (*SERVER_KNOBS, *MODEL_KNOBS)

_ENV_HEAD = """\
# Settings of mlx-openai-server as environment variables: copy to .env in the working directory and uncomment.
# A flag and a variable of the real environment win over this file. docs/settings.md explains every setting.
"""

_YAML_HEAD = """\
# Settings of mlx-openai-server as a file: mlx-openai-server launch --config config.yaml
# Flags, environment variables and .env win over this file. docs/settings.md explains every setting.
"""

_PAGE_HEAD = """\
# Settings

This page is generated from the settings themselves by `make docs`.

A setting is taken from the first of these that has it:

1. its flag, `mlx-openai-server launch --port 9000`;
2. its environment variable, `PORT=9000`;
3. the file `.env` in the working directory ([.env.example](../.env.example));
4. the YAML file given with `--config` or `CONFIG` ([config.example.yaml](../config.example.yaml));
5. its default.

With no model named anywhere and no place to find some, the sample model `{sample}` is served.

* **Names.** A setting has the same name everywhere: `--max-body-size`, `MAX_BODY_SIZE`, `max_body_size:` in YAML.
  Some have a second name, which works everywhere too. Two names with different values in one place are an error.
* **Unset.** A blank environment variable and a YAML key without a value count as unset; an empty flag is an error.
* **Switches** take no value or one: `--log-json`, `--log-json true`, `--log-json=false`.
* **Several values.** `--api-key`, `--allowed-origins` and the like may be repeated; a variable separates its values by
  commas; in YAML they are a list. What has a name, such as `--adapter NAME=PATH`, is in YAML a key with its path.
* **Paths** are relative to the working directory, those in the YAML file too; `~` is the home folder.
* **Several models** are a list in YAML. A model's setting that is given by flag or environment holds for every model of
  the list. `--model-path` or `MODEL_PATH` replaces the whole list by that one model.
* **Log.** `--debug` overrules a log level, and `--no-log-file` a log file, from the same or a weaker place.
* **Access.** At any address but this machine's own (127.0.0.1, ::1, localhost) the server starts only with an API key
  or with `--allow-unauthenticated`.
* **Mistakes** end the start with one sentence and exit status 2: unknown names in flags and YAML, values out of range.
"""

_PAGE_TAIL = """\
## Not supported yet

Other servers for MLX models know these names. They are refused by flag, variable and YAML key until they do something:
{names}.
"""


def env_example() -> str:
    """The text of .env.example: every variable, commented out."""
    return "\n".join([_ENV_HEAD, *(line for topic in TOPICS for line in _variables(topic))])


def yaml_example() -> str:
    """The text of config.example.yaml: the sample model, and every other key commented out."""
    model = [knob for knob in MODEL_KNOBS if knob.field != "model_path"]
    lines = [_YAML_HEAD, "server:", *_yaml_keys(SERVER_KNOBS, "  "), "", "models:", f"  - model_path: {SAMPLE_MODEL}"]
    return "\n".join([*lines, *_yaml_keys(model, "    ")]) + "\n"


def settings_page() -> str:
    """The text of docs/settings.md."""
    names = ", ".join(f"`{name}`" for name in sorted(NOT_YET))
    tables = [line for topic in TOPICS for line in _table(topic)]
    return "\n".join([_PAGE_HEAD.format(sample=SAMPLE_MODEL), *tables, _PAGE_TAIL.format(names=names)])


def documents() -> dict[str, str]:
    """Every generated document, by its path in the repository."""
    return {
        ".env.example": env_example(),
        "config.example.yaml": yaml_example(),
        "docs/settings.md": settings_page(),
    }


def write_documents(root: Path) -> None:
    """Write the documents into the repository at `root`."""
    for name, text in documents().items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _variables(topic: Topic) -> Iterator[str]:
    yield f"# {topic}"
    yield ""
    for knob in _about(topic):
        yield f"# {_explained(knob)}"
        yield f"#{variable_of(knob.names[0])}={knob.example}"
        yield ""


def _yaml_keys(knobs: Iterable[Knob], indent: str) -> Iterator[str]:
    for knob in knobs:
        if knob.in_yaml:
            yield f"{indent}# {_explained(knob)}"
            yield f"{indent}#{knob.names[0]}: {_yaml_value(knob)}"


def _table(topic: Topic) -> Iterator[str]:
    yield f"## {topic}"
    yield ""
    yield "| Flag | Environment | YAML section | Default | Meaning |"
    yield "|---|---|---|---|---|"
    for knob in _about(topic):
        off = [knob.off_flag] if knob.off_flag else []
        flags = _code([*(flag_of(name) for name in knob.names), *off])
        variables = _code(variable_of(name) for name in knob.names)
        section = "models" if knob in MODEL_KNOBS else "server" if knob.in_yaml else "none"
        yield f"| {flags} | {variables} | {section} | {knob.default} | {knob.help} |"
    yield ""


def _about(topic: Topic) -> list[Knob]:
    return [knob for knob in KNOBS if knob.topic == topic]


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _explained(knob: Knob) -> str:
    return f"{knob.help} Default: {knob.default}."


def _yaml_value(knob: Knob) -> str:
    if knob.kind == "list":
        return json.dumps(knob.example.split(","))
    if knob.kind == "paths":
        return json.dumps(named_paths(knob.example))
    # Quotes around whatever YAML could take for something else than a plain word or number.
    return knob.example if re.fullmatch(r"[A-Za-z0-9][\w./-]*", knob.example) else json.dumps(knob.example)


if __name__ == "__main__":
    write_documents(Path(__file__).parents[2])
