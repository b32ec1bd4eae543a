"""The YAML file: a `server` section and a list of `models`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from app.settings.knobs import Knob, SettingsError
from app.settings.sources import Source, check_names, read_bounded

_EMPTY = Source()


@dataclass(frozen=True, slots=True)
class YamlFile:
    """What a YAML file gives: one source for the server and one for each model."""

    server: Source = _EMPTY
    models: tuple[Source, ...] = ()


def read_yaml(path: Path, server_knobs: Iterable[Knob], model_knobs: Iterable[Knob]) -> YamlFile:
    """The file's sections with their keys checked; raises SettingsError."""
    content = load_yaml(path)
    sections = mapping_of(content, path.name)
    server_names = _names(server_knobs)
    model_names = _names(model_knobs)
    for key in sections:
        if key in server_names | model_names:
            place = "the server section" if key in server_names else "an entry of models"
            raise SettingsError(f"{key} in {path.name} belongs in {place}")
    check_names(sections, ("server", "models"), lambda name: f"{name} in {path.name}")
    return YamlFile(
        _section(sections.get("server"), "server", path, server_names, model_names),
        _models(sections.get("models"), path, server_names, model_names),
    )


def load_yaml(path: Path) -> object:
    """What a file says; raises SettingsError, which quotes nothing of it."""
    import yaml

    try:
        return yaml.safe_load(read_bounded(path))
    except FileNotFoundError:
        raise SettingsError(f"{str(path)!r} does not exist") from None
    except yaml.MarkedYAMLError as error:
        # Only the problem and its line: the error's own text quotes the file, which may hold an API key.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path} is not YAML: {error.problem or 'it is broken'}{line}") from None
    # PyYAML lets the errors of Python's own constructors through: an impossible date, an empty `!!int`, deep nesting.
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise SettingsError(f"{path} is not YAML that can be read ({type(error).__name__})") from None


def _models(value: object, path: Path, names: set[str], others: set[str]) -> tuple[Source, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise SettingsError(f"models in {path.name} must be a list with an entry for each model")
    entries = cast("list[object]", value)
    return tuple(_model(entry, f"models[{i}]", path, names, others) for i, entry in enumerate(entries))


def _model(value: object, place: str, path: Path, server_names: set[str], model_names: set[str]) -> Source:
    source = _section(value, place, path, model_names, server_names)
    if "model_path" not in source.values:
        raise SettingsError(f"{place} in {path.name} needs a model_path")
    return source


def _section(value: object, place: str, path: Path, names: set[str], others: set[str]) -> Source:
    section = mapping_of(value, f"{place} in {path.name}")

    def spell(name: str) -> str:
        return f"{place}.{name} in {path.name}"

    for key in section:
        if key in others and key not in names:
            belongs = "an entry of models" if place == "server" else "the server section"
            raise SettingsError(f"{spell(str(key))} belongs in {belongs}")
    check_names(section, names, spell)
    # A key without a value is an unset one.
    return Source({str(key): item for key, item in section.items() if item is not None}, spell)


def mapping_of(value: object, place: str) -> Mapping[object, object]:
    """Keys and values, none for nothing; raises SettingsError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{place} must hold keys and values (key: value)")
    return cast("dict[object, object]", value)


def _names(knobs: Iterable[Knob]) -> set[str]:
    return {name for knob in knobs if knob.in_yaml for name in knob.names}
