"""Stored chat completions on the wire.

Source: https://platform.openai.com/docs/api-reference/chat/list
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.schemas.base import Metadata, WireModel
from app.schemas.chat import ChatCompletion


class CompletionUpdate(WireModel):
    """The body of a request for other metadata; null for none."""

    metadata: Metadata | None


class CompletionListQuery(BaseModel):
    """Which completions are to be listed; `metadata[key]=value` may be added, several times."""

    model: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "asc"
    after: str | None = None


class KeptCompletion(ChatCompletion):
    """A stored completion."""

    metadata: dict[str, str]


class KeptMessage(BaseModel):
    """A message that a completion answers."""

    id: str
    role: str
    content: str | None
    name: str | None = None


class CompletionList(BaseModel):
    """A page of completions."""

    object: Literal["list"] = "list"
    data: list[KeptCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessageList(BaseModel):
    """A page of a completion's messages."""

    object: Literal["list"] = "list"
    data: list[KeptMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedCompletion(BaseModel):
    """A stored completion was deleted."""

    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: Literal[True] = True
