"""POST /v1/embeddings on the wire.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, Tag

from app.schemas.base import PositiveInt, WireModel
from app.schemas.inputs import INPUT_FORM, Tokens

MAX_INPUTS = 2048

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]

Input = Annotated[
    Annotated[Text, Tag("a text")]
    | Annotated[Texts, Tag("some texts")]
    | Annotated[Tokens, Tag("some tokens")]
    | Annotated[TokenLists, Tag("token lists")],
    INPUT_FORM,
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
