"""A model's tokens as bytes, and the sets of them that guides need."""

from collections.abc import Iterable
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from app.handler.lm.detokenizer import detokenizer_factory
from app.handler.lm.guides.masks import Words, mask_of


class Vocabulary:
    """How each token of one model is spelled. What it gives does not change; both threads may ask.

    `size` is the width of the logits, often more than the tokenizer has; tokens without a text are spelled b"".
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, eos_tokens: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self.size = size
        self._eos_tokens = frozenset(eos_tokens)
        self.bytes_of = detokenizer_factory(tokenizer)().bytes_of
        self._going_beyond: dict[bytes, list[tuple[int, bytes]]] = {}
        self.added: dict[str, int] = getattr(tokenizer, "added_tokens_encoder", {})

    @cached_property
    def spellings(self) -> list[bytes]:
        """By token, as far as the tokenizer goes."""
        return [self.bytes_of(token) for token in range(min(self.size, len(self._tokenizer)))]

    @cached_property
    def ends(self) -> Words:
        """The tokens that end an answer."""
        return self.mask(self._eos_tokens)

    @cached_property
    def all(self) -> Words:
        """Every token."""
        return self.mask(range(self.size))

    @cached_property
    def spaces(self) -> Words:
        """The tokens that are white space and nothing else."""
        return self.mask(token for token, text in enumerate(self.spellings) if text and not without_spaces(text))

    def going_beyond(self, character: bytes) -> list[tuple[int, bytes]]:
        """The tokens, with their spelling, that have this byte and more after it."""
        if character not in self._going_beyond:
            self._going_beyond[character] = [
                (token, text) for token, text in enumerate(self.spellings) if character in text[:-1]
            ]
        return self._going_beyond[character]

    def mask(self, tokens: Iterable[int]) -> Words:
        """The mask of some tokens."""
        return mask_of(tokens, self.size)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, special ones where it spells them."""
        return self._tokenizer.encode(text, add_special_tokens=False)


def without_spaces(text: bytes) -> bytes:
    """A text without the white space around it, as JSON understands that."""
    return text.strip(b" \t\n\r")
