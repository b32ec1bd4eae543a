"""Multipart forms: their fields validated as queries are, their files read."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from app.api.bodies import read_texts
from app.errors import InvalidRequest

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_FILES = 32
_MAX_FIELDS = 200


@dataclass(frozen=True, slots=True)
class Form(Generic[ModelT]):
    """The fields of a form, and the contents of its files by their field, in the order they came."""

    fields: ModelT
    files: dict[str, list[bytes]]


async def read_form(request: Request, model: type[ModelT], files: Collection[str]) -> Form[ModelT]:
    """Read a form; `image[]` is `image`, and of a field given twice the last value counts.

    The values of a list such as `words[]` are joined by commas. `files` are the fields that hold files. Errors:
    InvalidRequest naming the field, BodyTooLarge.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequest("The body must be a form; send it as multipart/form-data.", code="invalid_body")
    texts: dict[str, str] = {}
    contents: dict[str, list[bytes]] = {name: [] for name in files}
    async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS) as form:
        for key, value in form.multi_items():
            name = key.partition("[")[0]
            if isinstance(value, UploadFile) != (name in files):
                what = "must be a file" if name in files else "is a file and must be a text"
                raise InvalidRequest(f"'{name}' {what}.", param=name)
            if isinstance(value, UploadFile):
                contents[name].append(await value.read())
            else:
                texts[name] = f"{texts[name]},{value}" if key.endswith("[]") and name in texts else value
    return Form(read_texts(texts, model), contents)


def form_docs(model: type[BaseModel], files: Collection[str]) -> dict[str, Any]:
    """For a route's `openapi_extra`: its body is a form with the fields of `model` and these files."""
    binary = {"type": "array", "items": {"type": "string", "format": "binary"}}
    schema = model.model_json_schema()
    schema["properties"] = dict.fromkeys(files, binary) | schema["properties"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
