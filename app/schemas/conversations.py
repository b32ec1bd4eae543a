"""The Conversations API on the wire.

Source: https://platform.openai.com/docs/api-reference/conversations
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.schemas.base import Metadata, WireModel
from app.schemas.responses_items import WireItem, WireItems

# More are added by further requests.
MAX_NEW_ITEMS = 1000


class ConversationRequest(WireModel):
    """The body of a request for a conversation."""

    items: WireItems | None = None
    metadata: Metadata | None = None


class ConversationUpdate(WireModel):
    """The body of a request for other metadata; null for none."""

    metadata: Metadata | None


class NewItems(WireModel):
    """The body of a request to add items."""

    items: Annotated[list[WireItem], Field(min_length=1, max_length=MAX_NEW_ITEMS)]


class ConversationBody(BaseModel):
    """A conversation."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(BaseModel):
    """A conversation was deleted."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True
