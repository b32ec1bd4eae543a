"""Where settings come from, which source wins, and what is said to whoever gave a wrong one."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.settings.knobs import NOT_YET, Knob, SettingsError, flag_of, variable_of
from app.settings.types import named_paths

Model = TypeVar("Model", bound=BaseModel)

MAX_FILE_BYTES = 2**20

# Where pydantic's own words speak of parsing or of Python.
_CAUSES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
    "string_type": "must be text (put it in quotes)",
    "string_unicode": "must be valid UTF-8 text",
    "tuple_type": "must be a list",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What one place gives, by knob name, and how a name is spelled there."""

    values: Mapping[str, object] = field(default_factory=dict[str, object])
    spell: Callable[[str], str] = flag_of


@dataclass(frozen=True, slots=True)
class Given:
    """A value that won, the spelling it was given under, and the rank of its source (0 is the strongest)."""

    knob: Knob
    value: object
    spelled: str
    rank: int


def flag_values(flags: Mapping[str, object], names: Iterable[str]) -> Source:
    """The command line's options, named as in `max_tokens`."""
    check_names(flags, names, flag_of)
    return Source({name: value for name, value in flags.items() if value is not None}, flag_of)


def environment(
    environ: Mapping[str, str | None], names: Iterable[str], spell: Callable[[str], str] = variable_of
) -> Source:
    """The variables that are settings; blank ones count as unset."""
    filled = {name: value for name, value in environ.items() if value is not None and value.strip()}
    for name in sorted(NOT_YET):
        if variable_of(name) in filled:
            raise SettingsError(f"{spell(name)} is not supported yet")
    return Source({name: filled[variable_of(name)] for name in names if variable_of(name) in filled}, spell)


def environment_file(path: Path, names: Iterable[str]) -> Source:
    """The settings in a .env file, if there is one."""
    # A folder of this name is somebody's virtual environment.
    if path.is_dir():
        return Source()
    try:
        text = read_bounded(path).decode()
    except FileNotFoundError:
        return Source()
    except UnicodeDecodeError:
        raise SettingsError(f"{path} must be UTF-8 text") from None
    from dotenv.parser import parse_stream

    variables: dict[str, str | None] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(f"line {binding.original.line} of {path} must be NAME=value")
        if binding.key is not None:
            variables[binding.key] = binding.value
    return environment(variables, names, lambda name: f"{variable_of(name)} in {path.name}")


def read_bounded(path: Path) -> bytes:
    """The bytes of a settings file; a missing one raises FileNotFoundError, every other trouble SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise SettingsError(f"{_shown(path, 400)} cannot be read: {cause}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{path} is larger than {MAX_FILE_BYTES} bytes, which no settings file needs to be")
    return data


def check_names(given: Iterable[object], names: Iterable[str], spell: Callable[[str], str]) -> None:
    """Raise SettingsError for the first given name that is none of `names`."""
    known = set(names)
    for key in given:
        if key not in known:
            raise SettingsError(refusal(key, known, spell))


def refusal(key: object, names: Iterable[str], spell: Callable[[str], str]) -> str:
    """The sentence about a name that is not a setting, with the nearest one that is."""
    from difflib import get_close_matches

    name = str(key)[:60] if isinstance(key, str | int | float) else "a key that is not text"
    plain = name.strip().lower().replace("-", "_")
    if plain in NOT_YET:
        return f"{spell(name)} is not supported yet"
    near = get_close_matches(plain, sorted(names), 1)
    # repr, because a file can hold control characters; its quotes are not wanted around a plain name.
    shown = spell(name) if name.isprintable() else repr(name)
    return f"{shown} is not a known setting" + (f": did you mean {near[0]}?" if near else "")


def pick(knobs: Iterable[Knob], sources: Sequence[Source]) -> dict[str, Given]:
    """What applies, by field: each knob's value from the first source that has one."""
    chosen: dict[str, Given] = {}
    for knob in knobs:
        for rank, source in enumerate(sources):
            names = [name for name in knob.names if name in source.values]
            if names:
                chosen[knob.field] = _agreed(knob, source, names, rank)
                break
    return chosen


def build(kind: type[Model], given: Mapping[str, Given], directory: Path, **more: object) -> Model:
    """The settings object of what was picked; raises SettingsError."""
    values = {name: resolved(item, directory) for name, item in given.items()}
    try:
        return kind.model_validate(values | more)
    except ValidationError as error:
        # `from None`: pydantic's error holds its input, which may be an API key.
        raise SettingsError(_sentence(error, given)) from None


def resolved(given: Given, directory: Path) -> object:
    """The value, where a relative path is taken from `directory`; raises SettingsError."""
    if given.knob.kind == "path" and isinstance(given.value, str | Path):
        return _placed(given, given.value, directory)
    if given.knob.kind == "paths":
        try:
            named = named_paths(given.value)
        except ValueError as error:
            raise SettingsError(f"{given.spelled} {error}") from None
        return {name: _placed(given, path, directory) for name, path in named.items()}
    return given.value


def _placed(given: Given, path: str | Path, directory: Path) -> Path:
    try:
        return directory / Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(f"{given.spelled} is in a home folder that is not known: give the whole path") from None


def _agreed(knob: Knob, source: Source, names: Sequence[str], rank: int) -> Given:
    first, *others = names
    value = source.values[first]
    for name in others:
        if source.values[name] != value:
            raise SettingsError(f"{source.spell(first)} and {source.spell(name)} mean the same: give one of them")
    if isinstance(value, str) and not value.strip():
        raise SettingsError(f"{source.spell(first)} must not be empty")
    if isinstance(value, str) and "\0" in value:
        raise SettingsError(f"{source.spell(first)} must not hold a NUL character")
    return Given(knob, value, source.spell(first), rank)


def _sentence(error: ValidationError, given: Mapping[str, Given]) -> str:
    first = error.errors(include_url=False)[0]
    raised = first.get("ctx", {}).get("error")
    cause = str(raised) if raised else _CAUSES.get(first["type"]) or first["msg"].replace("Input should", "must", 1)
    if not first["loc"]:
        return cause
    item = given[str(first["loc"][0])]
    wrong = first["input"] if item.knob.kind == "list" else item.value
    shown = "" if item.knob.secret else _shown(wrong)
    return f"{item.spelled} {cause}" + (f", not {shown}" if shown else "")


def _shown(value: object, longest: int = 80) -> str:
    """A short form of a wrong value; nothing for one that could be endless."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | Path():
            text = repr(str(value))
            return text if len(text) <= longest else text[: longest - 4] + "...'"
        case float():
            return repr(value)
        case int() if value.bit_length() < 200:
            return repr(value)
        case _:
            return ""
