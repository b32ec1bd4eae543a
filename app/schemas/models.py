"""GET /v1/models on the wire.

Source: https://platform.openai.com/docs/api-reference/models
"""

from typing import Literal

from pydantic import BaseModel


class ModelObject(BaseModel):
    """A served model. `kind` and `context_length` are known once it is loaded."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlx-openai-server"
    status: str
    kind: str | None
    context_length: int | None


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
