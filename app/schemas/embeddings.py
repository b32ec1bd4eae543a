"""POST /v1/embeddings on the wire.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from app.schemas.base import PositiveInt, WireModel

MAX_INPUTS = 2048

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Text = Annotated[str, Field(min_length=1)]
# Fail-fast: a list of a million wrong things is one error.
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


def _form(given: Any) -> str | None:
    """Which form of input was meant, by its first element: so that an error is about this form alone."""
    match given:
        case str():
            return "a text"
        case [] | [str(), *_]:
            return "some texts"
        case [list(), *_]:
            return "token lists"
        case [int() | float(), *_]:
            return "some tokens"
        case _:
            return None


Input = Annotated[
    Annotated[Text, Tag("a text")]
    | Annotated[Texts, Tag("some texts")]
    | Annotated[Tokens, Tag("some tokens")]
    | Annotated[TokenLists, Tag("token lists")],
    Discriminator(
        _form,
        custom_error_type="input_form",
        custom_error_message="Input should be a text, a list of texts, a list of tokens or a list of such lists",
    ),
]


class EmbeddingsRequest(WireModel):
    """The body of an embeddings request."""

    model_config = WireModel.model_config | {
        "json_schema_extra": {"examples": [{"model": "all-minilm-l6-v2", "input": ["Hello", "Good morning"]}]}
    }

    model: str | None = None
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: PositiveInt | None = None
    user: str | None = None


class Embedding(BaseModel):
    """One input's vector: a list of numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(BaseModel):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage
