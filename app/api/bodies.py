"""JSON bodies and queries: read, validated, refused with a sentence; and described in /openapi.json."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.errors import InvalidRequest, UnsupportedField
from app.schemas.base import UNSUPPORTED

ModelT = TypeVar("ModelT", bound=BaseModel)

_CODES = {"missing": "missing_required_parameter", "json_invalid": "invalid_json"}
_LONGEST_ECHO = 200


async def read_body(request: Request, model: type[ModelT]) -> ModelT:
    """Read a JSON body, whatever content type it claims. Errors: InvalidRequest naming the field, BodyTooLarge."""
    raw = await request.body()
    if not raw.strip():
        raise InvalidRequest("The body is empty; send a JSON object.", code="empty_body")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _explained(error) from None


def read_query(request: Request, model: type[ModelT]) -> ModelT:
    """Read the query; of a name given twice the last value counts. Errors: InvalidRequest naming the parameter."""
    return read_texts(dict(request.query_params), model)


def read_texts(texts: dict[str, str], model: type[ModelT]) -> ModelT:
    """Read fields that come as text, as queries and forms have them. Errors: InvalidRequest naming the field."""
    try:
        return model.model_validate_strings(texts)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> InvalidRequest:
    """The one error that says most: as a union reports each of its branches, the deepest, in the branch of the type."""
    details = max(
        error.errors(include_url=False, include_context=True),
        key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")),
    )
    param = field_path(details["loc"])
    if details["type"] == UNSUPPORTED:
        return UnsupportedField(param)
    if details["type"] == "json_invalid":
        return InvalidRequest(
            f"The body is not valid JSON: {details['msg'].removeprefix('Invalid JSON: ')}.", code="invalid_json"
        )
    if not param:
        return InvalidRequest("The body must be a JSON object.", code="invalid_type")
    return InvalidRequest(
        f"'{param}': {_sentence(details)}", param=param, code=_CODES.get(details["type"], "invalid_value")
    )


def _sentence(details: ErrorDetails) -> str:
    text = details["msg"]
    value = details.get("input")
    if details["type"] != "missing" and isinstance(value, str | int | float | bool):
        shown = repr(value)
        text += f", not {shown if len(shown) <= _LONGEST_ECHO else shown[:_LONGEST_ECHO] + '...'}"
    return text + "."


def field_path(location: tuple[int | str, ...]) -> str:
    """A field's place as OpenAI writes it: messages[0].content. Names of union branches are left out."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and step not in ("str", "int", "float", "bool"):
            path += f".{step}" if path else step
    return path


def body_docs(model: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`: its body is `model` as JSON."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def query_docs(model: type[BaseModel]) -> dict[str, Any]:
    """For a route's `openapi_extra`: its query has the fields of `model`."""
    fields = model.model_json_schema()["properties"]
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]}
