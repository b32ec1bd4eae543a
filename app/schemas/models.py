"""GET /v1/models on the wire.

Source: https://platform.openai.com/docs/api-reference/models
"""

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.base import WireModel

Capability = Literal[
    "chat", "tools", "reasoning", "vision", "video", "audio", "embeddings", "transcription", "speech", "images"
]


class ModelObject(BaseModel):
    """A served model: `status` is unloaded, loading, ready, unloading, restarting or failed, `reason` says more of it.

    `kind`, `context_length`, `size_bytes` (of the weights on disk) and `capabilities` are null where they are not known
    before it is loaded; `memory_bytes` is what it takes now, 0 while it is not loaded; `adapter` is its adapter's name.
    Of an adapter that is served beside its base, `parent` is the base's id and `root` the name of the adapter's folder;
    what is said of its state and its size is its base's. Of any other model, `root` is its id.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlx-openai-server"
    root: str
    parent: str | None
    status: str
    reason: str | None
    kind: str | None
    context_length: int | None
    adapter: str | None
    on_demand: bool
    size_bytes: int | None
    memory_bytes: int
    capabilities: list[Capability] | None


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class LoadModelRequest(WireModel):
    """Which model to load."""

    model: str


class UnloadModelRequest(WireModel):
    """Which model to unload, and for how many seconds to wait until its requests are through."""

    model: str
    timeout: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)


class DeleteModelQuery(WireModel):
    """For how many seconds to wait until a model's requests are through."""

    timeout: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)


class DeletedModel(BaseModel):
    """A model that is no longer on disk."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
