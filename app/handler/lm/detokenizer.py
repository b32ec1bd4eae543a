"""Tokens to text, one token at a time, in whole code points."""

import codecs
import json
from collections.abc import Callable
from functools import cache
from typing import Protocol

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """The text of one row. What `push` gave so far plus `finish` is the decoding of all tokens."""

    def push(self, token: int) -> str:
        """Take a token; gives the text that became certain, often one token's, sometimes none."""
        ...

    def finish(self) -> str:
        """The row has ended; gives what is left, an incomplete character as U+FFFD."""
        ...


def detokenizer_factory(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Detokenizer]:
    """How to make a detokenizer for each row of this tokenizer's model."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda: WindowDetokenizer(lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)))
    decoder = json.loads(backend.to_str())["decoder"]
    if decoder is not None and decoder["type"] == "ByteLevel":
        pieces = _byte_level_pieces(backend.get_vocab(with_added_tokens=True))
        return lambda: BytesDetokenizer(pieces)
    return lambda: WindowDetokenizer(lambda ids: backend.decode(ids, skip_special_tokens=False))


class BytesDetokenizer:
    """For byte-level BPE, where the text is the concatenation of each token's bytes."""

    __slots__ = ("_decode", "_pieces")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token: int) -> str:
        # Vocabularies are padded: the model can choose an id that the tokenizer does not have.
        return self._decode(self._pieces[token]) if token < len(self._pieces) else ""

    def finish(self) -> str:
        return self._decode(b"", True)


class WindowDetokenizer:
    """For any tokenizer: decodes a sliding window, as a token's text may depend on the token before it.

    The window starts one emitted stretch back, so that a decoder which strips or joins at the start of its input does
    so in text that is already out.
    """

    __slots__ = ("_decode", "_emitted", "_ids")

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._emitted = 0

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        self._ids = self._ids[self._emitted :]
        self._emitted = len(self._ids)
        return text

    def finish(self) -> str:
        text = self._new_text() if len(self._ids) > self._emitted else ""
        self._emitted = len(self._ids)
        return text

    def _new_text(self) -> str:
        before = self._decode(self._ids[: self._emitted]) if self._emitted else ""
        return self._decode(self._ids)[len(before) :]


def _byte_level_pieces(vocab: dict[str, int]) -> list[bytes]:
    """Each token's bytes by id; ids without a token have none."""
    table = _byte_of_character()
    pieces = [b""] * (max(vocab.values()) + 1)
    for token, index in vocab.items():
        spelled = [table.get(character) for character in token]
        # An added token with a character outside of the alphabet stands for itself.
        pieces[index] = token.encode() if None in spelled else bytes(byte for byte in spelled if byte is not None)
    return pieces


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up, in order.

    Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
