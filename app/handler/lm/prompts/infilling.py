"""Fill in the middle: a text before and a text after a gap to the prompt whose answer belongs between them."""

from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class InfillingMarkers:
    """What a family of models was trained with: markers before the prefix, before the suffix, and before the answer."""

    prefix: str
    suffix: str
    middle: str | None
    is_suffix_first: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        """The markers that the tokenizer must have."""
        return tuple(filter(None, (self.prefix, self.suffix, self.middle)))


# Sources: the model cards and tokenizers of each family. The first whose markers are all tokens is taken.
_FAMILIES = (
    # Qwen Coder, CodeGemma, Granite 3.3 and later
    InfillingMarkers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # StarCoder, Granite Code, Stable Code, Refact
    InfillingMarkers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    # SantaCoder
    InfillingMarkers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # DeepSeek Coder
    InfillingMarkers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Code Llama
    InfillingMarkers("▁<PRE>", "▁<SUF>", "▁<MID>"),
    # Seed Coder
    InfillingMarkers("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", is_suffix_first=True),
    # CodeGeeX 4
    InfillingMarkers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", is_suffix_first=True),
    # Codestral: the answer follows the prefix directly
    InfillingMarkers("[PREFIX]", "[SUFFIX]", None, is_suffix_first=True),
)
# A character that merges with no other, for tokenizers that put a space before a text.
_ANCHOR = "☺"


class Infilling:
    """Fill in the middle for one tokenizer. Owned by the prepare thread."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._markers = next((one for one in _FAMILIES if vocabulary.keys() >= set(one.all)), None)
        self._ids = {marker: vocabulary[marker] for marker in (self._markers.all if self._markers else ())}

    def tokens(self, prefix: str, suffix: str, *, adds_special_tokens: bool) -> list[int]:
        """The prompt for what belongs between `prefix` and `suffix`. Errors: InvalidRequest when no such is known."""
        markers = self._markers
        if markers is None:
            raise InvalidRequest(
                "This model has no tokens to fill in the middle with: leave 'suffix' out, or use a code model.",
                param="suffix",
            )
        before = [self._ids[markers.prefix], *self._tokenizer.encode(prefix, add_special_tokens=False)]
        after = [self._ids[markers.suffix], *self._after_gap(suffix)]
        parts = after + before if markers.is_suffix_first else before + after
        first = self._tokenizer.bos_token_id
        has_first = adds_special_tokens and self._tokenizer.encode("")[:1] == [first]
        return [*([first] if has_first else []), *parts, *([self._ids[markers.middle]] if markers.middle else [])]

    def _after_gap(self, text: str) -> list[int]:
        """The tokens of a text that goes on from a gap: without the space that some tokenizers put before a text."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        anchor = self._tokenizer.encode(_ANCHOR, add_special_tokens=False)
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(anchor)
        if not pieces[0].startswith("\u2581"):
            return encoded
        anchored = self._tokenizer.encode(_ANCHOR + text, add_special_tokens=False)
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else encoded
