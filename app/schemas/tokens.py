"""POST /v1/tokenize and /v1/detokenize on the wire, as vLLM has them.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, Field, RootModel, Tag

from app.schemas.base import WireModel, refused_unless
from app.schemas.chat import ChatCompletionRequest
from app.schemas.inputs import Token


class TokenizeTextRequest(WireModel):
    """A text, tokenized as a completion's prompt is."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatCompletionRequest):
    """The body of a chat completion request, whose prompt is counted and not answered."""

    return_token_strs: bool | None = None
    add_special_tokens: Annotated[bool | None, refused_unless(False)] = None


def _form(given: Any) -> str:
    return "a conversation" if isinstance(given, dict) and "messages" in given else "a text"


class TokenizeRequestBody(
    RootModel[
        Annotated[
            Annotated[TokenizeTextRequest, Tag("a text")] | Annotated[TokenizeChatRequest, Tag("a conversation")],
            Discriminator(_form),
        ]
    ]
):
    """The body of a tokenize request: a prompt, or messages."""


class TokenizeReply(BaseModel):
    """The tokens, their number, the model's context length; `token_strs` is how the vocabulary spells them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequestBody(WireModel):
    """The body of a detokenize request."""

    model: str | None = None
    tokens: Annotated[list[Token], Field(fail_fast=True)]


class DetokenizeReply(BaseModel):
    """The text that the tokens are, special ones spelled out."""

    prompt: str
