"""Media to embeddings: what stands in the language model's input in the place of a medium's tokens."""

from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_vlm.generate.common import _chunked_prefill_enabled  # pyright: ignore[reportPrivateUsage]
from mlx_vlm.models.base import InputEmbeddingsFeatures

from app.handler.vlm.language import LanguageSide
from app.handler.vlm.processor import CannotSeeError, Shown
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
    """What takes the place of a medium's tokens, from its first placeholder to its last.

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


class Tower:
    """Looks at media, at one that it remembers without looking. Owned by the worker's main thread."""

    def __init__(self, language: LanguageSide) -> None:
        self.language = language
        self.whole: Any = language.whole
        # The placeholders of media whose pieces look at each other, also at those after them. Known from a first look.
        self.read_whole: set[int] = set()
        self.begin()

    def see(self, shown: Shown) -> Seen:
        """Errors: CannotSeeError, and whatever the model raises."""
        seen = self.recent.get(shown.key)
        if seen is None:
            seen = self._look(shown)
            self.recent.put(shown.key, seen)
        return seen

    def begin(self) -> None:
        """Remember nothing of the first looks, nor that they were."""
        self.recent: Recent[Seen] = Recent(_MAX_BYTES)

    def try_out(self, shown: Shown) -> None:
        """See a first medium of its kind. Errors: as of `see`, and where the model goes on as if there were none."""
        seen = self.see(shown)
        visual = mx.array(np.flatnonzero(seen.is_visual))
        as_text = self.embed(mx.array([shown.span])).inputs_embeds
        if mx.array_equal(seen.embeddings[:, visual], as_text[:, visual]).item():
            raise CannotSeeError("it takes no notice of them")

    def embed(self, tokens: mx.array) -> InputEmbeddingsFeatures:
        """Of tokens that are text, shape (1, tokens)."""
        return self.whole.get_input_embeddings(tokens, None)

    def _look(self, shown: Shown) -> Seen:
        tokens = mx.array([shown.tokens])
        inputs = {
            name: mx.array(value) if isinstance(value, np.ndarray) else value for name, value in shown.inputs.items()
        }
        pixels = inputs.pop("pixel_values", None)
        given = self.whole.get_input_embeddings(tokens, pixels, mask=mx.ones_like(tokens), **inputs)
        self._check(given, tokens, inputs, shown.placeholder)
        span = slice(shown.start, shown.stop)
        per_layer, deep = given.per_layer_inputs, given.deepstack_visual_embeds
        seen = Seen(
            mx.contiguous(given.inputs_embeds[:, span]),
            None if per_layer is None else mx.contiguous(per_layer[:, span]),
            None if deep is None else mx.stack(list(deep)),
            np.array(shown.span) == shown.placeholder,
        )
        mx.eval(*(array for array in (seen.embeddings, seen.per_layer, seen.deep) if array is not None))
        return seen

    def _check(
        self, given: InputEmbeddingsFeatures, tokens: mx.array, inputs: dict[str, Any], placeholder: int
    ) -> None:
        fields = {name for name, value in given.to_dict().items() if value is not None}
        kind = str(self.whole.config.model_type)
        if unknown := fields - _KNOWN - _IGNORED.get(kind, frozenset()):
            raise CannotSeeError(f"they come with {min(unknown)}")
        if given.inputs_embeds.shape[:2] != tokens.shape:
            raise CannotSeeError("they take more tokens than its processor says")
        kwargs = inputs | {name: getattr(given, name) for name in fields - {"inputs_embeds"}}
        if _chunked_prefill_enabled(self.whole, input_ids=tokens, prefill_kwargs=kwargs):
            return
        # Only where such a mask goes by the kinds of tokens is it known to end with the last medium.
        if "mm_token_type_ids" not in inputs:
            raise CannotSeeError("it reads a prompt with them only in one piece")
        self.read_whole.add(placeholder)
