"""What a setting is called outside, how it is explained, and the names that are still to come."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Topic = Literal["Models", "Sampling defaults", "Limits", "Network and access", "Files", "Logging"]
Kind = Literal["value", "path", "paths", "list", "switch"]

TOPICS: tuple[Topic, ...] = get_args(Topic)

# Options of the servers that this one replaces which are known here but not implemented: to accept and ignore one would
# be a lie, so they are refused by name. Whoever implements one removes it here and adds the field.
NOT_YET = frozenset(
    {
        "decode_concurrency",
        "enable_auto_tool_choice",
        "message_converter",
        "prompt_concurrency",
    }
)


class SettingsError(Exception):
    """Settings that cannot be served with; the message is one sentence for the person who wrote them."""


@dataclass(frozen=True, slots=True)
class Knob:
    """How one settings field is reached and explained; hung on the field with `Annotated`.

    Each of `names` works as a flag, an environment variable and a YAML key; the first is the one that is documented.
    What is left empty is filled in from the field by `knobs_of`.
    """

    topic: Topic
    help: str
    metavar: str = ""
    names: tuple[str, ...] = ()
    default: str = ""
    example: str = ""
    off_flag: str = ""
    secret: bool = False
    in_yaml: bool = True
    field: str = ""
    kind: Kind = "value"


def knobs_of(model: type[BaseModel]) -> tuple[Knob, ...]:
    """The knobs of a settings class by topic, and in the order of its fields."""
    knobs = (
        _completed(item, name, info)
        for name, info in model.model_fields.items()
        for item in info.metadata
        if isinstance(item, Knob)
    )
    return tuple(sorted(knobs, key=lambda knob: TOPICS.index(knob.topic)))


def flag_of(name: str) -> str:
    """`max_tokens` as it is typed on the command line."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """`max_tokens` as it is called in the environment."""
    return name.upper()


def _completed(knob: Knob, field: str, info: FieldInfo) -> Knob:
    # A default that is made on demand (a folder of this machine) has no place in a document: its knob says it in words.
    default = "" if info.default_factory else _text(info.default)
    return replace(
        knob,
        field=field,
        names=knob.names or (field,),
        default=knob.default or default,
        example=knob.example or default,
        kind=_kind(info.annotation),
    )


def _kind(annotation: Any) -> Kind:
    if annotation is bool:
        return "switch"
    if get_origin(annotation) is tuple:
        return "list"
    if get_origin(annotation) is dict:
        return "paths"
    return "path" if annotation in (Path, Path | None) else "value"


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case tuple():
            return ",".join(str(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case float():
            return f"{value:g}"
        case _:
            return str(value)
