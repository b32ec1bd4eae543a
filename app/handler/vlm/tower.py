"""Pictures to embeddings: what stands in the language model's input in the place of a picture's tokens."""

from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
from loguru import logger
from mlx_vlm.generate.common import _chunked_prefill_enabled  # pyright: ignore[reportPrivateUsage]
from mlx_vlm.models.base import InputEmbeddingsFeatures

from app.handler.vlm.language import LanguageSide
from app.handler.vlm.processor import CannotSeeError, Picture
from app.handler.vlm.recent import Recent

# Of what was seen last.
_MAX_BYTES: Final = 512 * 2**20
# What an embedding may come with. Positions are found for the whole prompt.
_KNOWN: Final = frozenset(
    {
        "inputs_embeds",
        "per_layer_inputs",
        "visual_pos_masks",
        "deepstack_visual_embeds",
        "position_ids",
        "rope_deltas",
    }
)
# Gemma 3 is given a mask of ones that it does not read.
_IGNORED: Final = {"gemma3": frozenset({"attention_mask_4d"})}


@dataclass(frozen=True, slots=True)
class Seen:
    """What takes the place of a picture's tokens, from its first placeholder to its last.

    `embeddings` is of shape (1, tokens, size), `per_layer` of (1, tokens, layers, size) where there are any. `deep` is
    added after the first layers, (layers, placeholders, size), where `is_visual`.
    """

    embeddings: mx.array
    per_layer: mx.array | None
    deep: mx.array | None
    is_visual: np.ndarray

    @property
    def nbytes(self) -> int:
        """In memory."""
        arrays = (self.embeddings, self.per_layer, self.deep)
        return sum(array.nbytes for array in arrays if array is not None)


class VisionTower:
    """Looks at pictures, at one that it remembers without looking. Owned by the worker's main thread."""

    def __init__(self, language: LanguageSide, placeholder: int) -> None:
        self.language = language
        self.whole: Any = language.whole
        self.placeholder = placeholder
        # The pieces of a picture look at each other, also at those after them. Known from the first look.
        self.reads_whole = False
        self._recent: Recent[Seen] = Recent(_MAX_BYTES)
        self.num_looks = 0

    def see(self, picture: Picture) -> Seen:
        """Errors: CannotSeeError, and whatever the model raises."""
        seen = self._recent.get(picture.key)
        if seen is None:
            seen = self._look(picture)
            self._recent.put(picture.key, seen)
        logger.debug("pictures looked at: {}, and seen before: {}", self.num_looks, self._recent.num_hits)
        return seen

    def embed(self, tokens: mx.array) -> InputEmbeddingsFeatures:
        """Of tokens that are text, shape (1, tokens)."""
        return self.whole.get_input_embeddings(tokens, None)

    def forget(self) -> None:
        """Remember nothing."""
        self._recent.clear()

    def _look(self, picture: Picture) -> Seen:
        self.num_looks += 1
        tokens = mx.array([picture.tokens])
        inputs = {
            name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in picture.inputs.items()
        }
        pixels = inputs.pop("pixel_values", None)
        given = self.whole.get_input_embeddings(tokens, pixels, mask=mx.ones_like(tokens), **inputs)
        self._check(given, tokens, inputs)
        span = slice(picture.start, picture.stop)
        per_layer, deep = given.per_layer_inputs, given.deepstack_visual_embeds
        seen = Seen(
            mx.contiguous(given.inputs_embeds[:, span]),
            None if per_layer is None else mx.contiguous(per_layer[:, span]),
            None if deep is None else mx.stack(list(deep)),
            np.array(picture.span) == self.placeholder,
        )
        mx.eval(*(array for array in (seen.embeddings, seen.per_layer, seen.deep) if array is not None))
        return seen

    def _check(self, given: InputEmbeddingsFeatures, tokens: mx.array, inputs: dict[str, Any]) -> None:
        fields = {name for name, value in given.to_dict().items() if value is not None}
        kind = str(self.whole.config.model_type)
        if unknown := fields - _KNOWN - _IGNORED.get(kind, frozenset()):
            raise CannotSeeError(f"its pictures come with {min(unknown)}")
        if given.inputs_embeds.shape[:2] != tokens.shape:
            raise CannotSeeError("its pictures take more tokens than its processor says")
        kwargs = inputs | {name: getattr(given, name) for name in fields - {"inputs_embeds"}}
        self.reads_whole = not _chunked_prefill_enabled(self.whole, input_ids=tokens, prefill_kwargs=kwargs)
        # Only where such a mask goes by the kinds of tokens is it known to end with the last picture.
        if self.reads_whole and "mm_token_type_ids" not in inputs:
            raise CannotSeeError("it reads a prompt with pictures only in one piece")
