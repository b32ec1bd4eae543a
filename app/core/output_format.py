"""What form an answer must have, in no protocol's words; plain text is None."""

import msgspec


class JsonObject(msgspec.Struct, frozen=True, tag="json_object"):
    """Any JSON object."""


class JsonSchema(msgspec.Struct, frozen=True, omit_defaults=True, tag="json_schema"):
    """JSON that a schema allows; `schema` is the schema as JSON text, an object, its keys in the client's order.

    `strict` is the client's word: the schema is kept to either way.
    """

    schema: str
    name: str = ""
    strict: bool = False


class Regex(msgspec.Struct, frozen=True, tag="regex"):
    """Text that a regular expression matches from end to end."""

    pattern: str


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    """One of these texts."""

    choices: tuple[str, ...]


class Lark(msgspec.Struct, frozen=True, tag="lark"):
    """Text of a context-free grammar, written in Lark's syntax or in GBNF."""

    grammar: str


OutputFormat = JsonObject | JsonSchema | Regex | Choice | Lark
