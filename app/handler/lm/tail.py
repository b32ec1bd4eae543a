"""Which tokens of a pass reach a model's head: logits take its largest matrix, and few of a prompt's are asked for."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from loguru import logger
from mlx import nn

from app.handler.lm.kv.cache_form import CacheForm

# What a model's body gives, of which the head is to have a part.
Pick = Callable[[mx.array], mx.array]
# How far apart logits may be that were computed in two ways, as a part of their size.
_TOLERANCE = {mx.float32: 1e-3}
_TOLERANCE_OF_16_BITS = 0.1


class Tail:
    """Owned by the worker's main thread. `model` is one for which `open_tail` has found that it takes this."""

    def __init__(self, model: nn.Module) -> None:
        self._holder = _holder_of_body(model)

    @contextmanager
    def only(self, pick: Pick) -> Generator[None]:
        """While the model runs, its head has what `pick` makes of the body's output, shape (rows, tokens, size)."""
        # Hides the module of that name, which stays where it is.
        object.__setattr__(self._holder, "model", _Picked(self._holder.model, pick))
        try:
            yield
        finally:
            object.__delattr__(self._holder, "model")


def open_tail(form: CacheForm) -> Tail | None:
    """None for a model that has no body apart from its head: tried out on a few tokens."""
    tokens = mx.array([[1, 2, 3], [4, 5, 6]])
    try:
        tail = Tail(form.model)
        with tail.only(lambda given: given[:, 1:2]):
            own = form.model(tokens)
        whole = form.model(tokens)
    # Whatever a model raises at what it was not made for; it runs without.
    except Exception as error:
        logger.debug("the model's head sees every token: {}", error)
        return None
    return tail if are_alike(own, whole[:, 1:2]) else None


def are_alike(one: mx.array, other: mx.array) -> bool:
    """Whether logits are the same but for rounding."""
    if one.shape != other.shape:
        return False
    tolerance = _TOLERANCE.get(other.dtype, _TOLERANCE_OF_16_BITS)
    apart = mx.linalg.norm((one - other).astype(mx.float32))
    return bool(mx.all(apart <= tolerance * mx.linalg.norm(other.astype(mx.float32))).item())


class _Picked:
    """Stands in a body's place."""

    def __init__(self, body: Callable[..., mx.array], pick: Pick) -> None:
        self._body = body
        self._pick = pick

    def __call__(self, *inputs: Any, **options: Any) -> mx.array:
        return self._pick(self._body(*inputs, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def _holder_of_body(model: Any) -> Any:
    """The module that has the model's body as `model`, and applies its head to what that gives."""
    for name in ("whole", "language_model"):
        inner = getattr(model, name, None)
        model = inner if isinstance(inner, nn.Module) else model
    if not isinstance(getattr(model, "model", None), nn.Module):
        raise TypeError("the model has no body apart from its head")
    return model
