"""What form an answer must have, on the wire: OpenAI's field, and vLLM's newer and older ones.

Sources: https://platform.openai.com/docs/api-reference/chat,
https://docs.vllm.ai/en/latest/features/structured_outputs.html
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from app.schemas.base import Unsupported, WireModel, refused_unless

# A JSON schema, or the same as JSON text.
GuidedJson = dict[str, JsonValue] | str


class JsonSchemaFormat(WireModel):
    """A JSON schema with a name, as OpenAI takes it."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(WireModel):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(WireModel):
    """vLLM's way of saying what form the answer must have; JSON has no white space either way."""

    json_: Annotated[GuidedJson | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Unsupported = None
    whitespace_pattern: Unsupported = None
    disable_additional_properties: Annotated[bool | None, refused_unless(False)] = None


class OutputFormatFields(WireModel):
    """The part of a body that says what form the answer must have."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: GuidedJson | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
