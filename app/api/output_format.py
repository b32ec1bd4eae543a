"""What form an answer must have, from OpenAI's `response_format` and vLLM's `guided_*` and `structured_outputs`."""

import json

from pydantic import JsonValue

from app.core.output_format import Choice, JsonObject, JsonSchema, Lark, OutputFormat, Regex
from app.errors import InvalidRequest
from app.schemas.output_format import GuidedJson, OutputFormatFields, ResponseFormat, StructuredOutputs

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_BYTES = 16 * 1024
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_CHOICES = 1000
MAX_CHOICES_BYTES = 64 * 1024


def to_output_format(body: OutputFormatFields) -> OutputFormat | None:
    """Translate the fields that say it; None is plain text. Errors: InvalidRequest, also where two of them say it."""
    said: dict[str, OutputFormat] = {}
    if body.response_format is not None and (asked := _from_response_format(body.response_format)) is not None:
        said["response_format"] = asked
    if body.structured_outputs is not None:
        said |= _from_structured_outputs(body.structured_outputs)
    if body.guided_json is not None:
        said["guided_json"] = _guided_json(body.guided_json, "guided_json")
    if body.guided_regex is not None:
        said["guided_regex"] = _regex(body.guided_regex, "guided_regex")
    if body.guided_choice is not None:
        said["guided_choice"] = _choice(body.guided_choice, "guided_choice")
    if body.guided_grammar is not None:
        said["guided_grammar"] = _grammar(body.guided_grammar, "guided_grammar")
    if len(said) > 1:
        first, second = list(said)[:2]
        raise InvalidRequest(
            f"'{first}' and '{second}' both say what form the answer must have; give one.", param=second
        )
    return next(iter(said.values()), None)


def _from_response_format(asked: ResponseFormat) -> OutputFormat | None:
    match asked.type:
        case "text":
            return None
        case "json_object":
            return JsonObject()
        case "json_schema":
            path = "response_format.json_schema"
            if asked.json_schema is None:
                raise InvalidRequest(
                    f"'{path}' is missing: the type 'json_schema' needs it.",
                    param=path,
                    code="missing_required_parameter",
                )
            text = schema_text(asked.json_schema.schema_, f"{path}.schema")
            return JsonSchema(text, asked.json_schema.name, bool(asked.json_schema.strict))


def _from_structured_outputs(asked: StructuredOutputs) -> dict[str, OutputFormat]:
    """What each of its fields says, by the field's path."""
    said: dict[str, OutputFormat] = {}
    if asked.json_ is not None:
        said["structured_outputs.json"] = _guided_json(asked.json_, "structured_outputs.json")
    if asked.json_object:
        said["structured_outputs.json_object"] = JsonObject()
    if asked.regex is not None:
        said["structured_outputs.regex"] = _regex(asked.regex, "structured_outputs.regex")
    if asked.choice is not None:
        said["structured_outputs.choice"] = _choice(asked.choice, "structured_outputs.choice")
    if asked.grammar is not None:
        said["structured_outputs.grammar"] = _grammar(asked.grammar, "structured_outputs.grammar")
    if not said:
        raise InvalidRequest(
            "'structured_outputs' needs one of json, regex, choice, grammar and json_object.",
            param="structured_outputs",
        )
    return said


def _guided_json(schema: GuidedJson, path: str) -> JsonSchema:
    if not isinstance(schema, str):
        return JsonSchema(schema_text(schema, path))
    _check_bytes(schema, MAX_SCHEMA_BYTES, path)
    try:
        parsed = json.loads(schema)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        raise InvalidRequest(f"'{path}' is not valid JSON: {error}.", param=path) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"'{path}' must be a JSON schema: a JSON object.", param=path)
    return JsonSchema(schema_text(parsed, path))


def schema_text(schema: dict[str, JsonValue], path: str) -> str:
    """A JSON schema as text. Errors: InvalidRequest naming `path` when it is too large or no JSON."""
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        raise _too_deep(path)
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        _check_bytes(text, MAX_SCHEMA_BYTES, path)
    except ValueError as error:
        # NaN, half a surrogate pair, a number of thousands of digits: nothing that JSON has.
        raise InvalidRequest(f"'{path}' is not valid JSON: {error}.", param=path) from None
    return text


def _regex(pattern: str, path: str) -> Regex:
    _check_filled(pattern, path)
    _check_bytes(pattern, MAX_REGEX_BYTES, path)
    return Regex(pattern)


def _choice(choices: list[str], path: str) -> Choice:
    if not choices:
        raise InvalidRequest(f"'{path}' must name at least one choice.", param=path)
    if len(choices) > MAX_CHOICES:
        raise InvalidRequest(f"'{path}' has {len(choices)} choices; at most {MAX_CHOICES} are allowed.", param=path)
    for index, choice in enumerate(choices):
        _check_filled(choice, f"{path}[{index}]")
    _check_bytes("".join(choices), MAX_CHOICES_BYTES, path)
    return Choice(tuple(choices))


def _grammar(grammar: str, path: str) -> Lark:
    _check_filled(grammar, path)
    _check_bytes(grammar, MAX_GRAMMAR_BYTES, path)
    return Lark(grammar)


def _check_filled(text: str, path: str) -> None:
    if not text:
        raise InvalidRequest(f"'{path}' must not be empty.", param=path)


def _check_bytes(text: str, limit: int, path: str) -> None:
    size = len(text.encode())
    if size > limit:
        raise InvalidRequest(f"'{path}' has {size} bytes; at most {limit} are allowed.", param=path)


def _too_deep(path: str) -> InvalidRequest:
    return InvalidRequest(f"'{path}' is nested deeper than {MAX_SCHEMA_DEPTH} levels.", param=path)


def _is_deeper(value: JsonValue, limit: int) -> bool:
    """Whether lists and objects are nested deeper than `limit`; without recursion, as it may be much deeper."""
    level = [value]
    for _ in range(limit):
        level = [child for one in level for child in _children(one)]
    return any(isinstance(one, dict | list) for one in level)


def _children(value: JsonValue) -> list[JsonValue]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []
