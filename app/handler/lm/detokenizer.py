"""Tokens to text, one token at a time, in whole code points."""

import codecs
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Protocol

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
# How tokenizer.json spells SentencePiece's decoder; the last step is there where the first token's space is no text.
_SENTENCEPIECE = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    """The text of one row. What `push` gave so far plus `finish` is the decoding of all tokens."""

    def push(self, token: int) -> str:
        """Take a token; gives the text that became certain, often one token's, sometimes none."""
        ...

    def finish(self) -> str:
        """The row has ended; gives what is left, an incomplete character as U+FFFD."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for by itself: those of a row's tokens join to the bytes of its text."""
        ...


def detokenizer_factory(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Detokenizer]:
    """How to make a detokenizer for each row of this tokenizer's model."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda: WindowDetokenizer(lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)))
    decoder = json.loads(backend.to_str())["decoder"] or {}
    if decoder.get("type") == "ByteLevel":
        pieces = _pieces(backend.get_vocab(with_added_tokens=True), _byte_level_bytes)
        return lambda: BytesDetokenizer(pieces)
    if (steps := decoder.get("decoders")) in (_SENTENCEPIECE, [*_SENTENCEPIECE, _STRIP]):
        pieces = _pieces(backend.get_vocab(with_added_tokens=True), _sentencepiece_bytes)
        return lambda: BytesDetokenizer(pieces, strips_space=_STRIP in steps)
    return lambda: WindowDetokenizer(lambda ids: backend.decode(ids, skip_special_tokens=False))


class BytesDetokenizer:
    """Where the text is the concatenation of each token's bytes: byte-level BPE, and SentencePiece with byte fallback.

    Broken UTF-8 becomes U+FFFD as Python's own decoder has it. SentencePiece's decoder looks at a whole run of byte
    tokens instead, and so would take back characters that are out already.
    """

    __slots__ = ("_decode", "_pieces", "_strips_space")

    def __init__(self, pieces: list[bytes], *, strips_space: bool = False) -> None:
        self._pieces = pieces
        self._strips_space = strips_space
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token: int) -> str:
        # Vocabularies are padded: the model can choose an id that the tokenizer does not have.
        text = self._decode(self._pieces[token]) if token < len(self._pieces) else ""
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        return self._decode(b"", True)

    def bytes_of(self, token: int) -> bytes:
        return self._pieces[token] if token < len(self._pieces) else b""


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

    def bytes_of(self, token: int) -> bytes:
        return self._decode([token]).encode()

    def _new_text(self) -> str:
        before = self._decode(self._ids[: self._emitted]) if self._emitted else ""
        return self._decode(self._ids)[len(before) :]


def _pieces(vocab: dict[str, int], spell: Callable[[str], bytes]) -> list[bytes]:
    """Each token's bytes by id; ids without a token have none."""
    pieces = [b""] * (max(vocab.values()) + 1)
    for token, index in vocab.items():
        pieces[index] = spell(token)
    return pieces


def _sentencepiece_bytes(token: str) -> bytes:
    if _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(token[3:5])
    return token.replace("\u2581", " ").encode()


def _byte_level_bytes(token: str) -> bytes:
    table = _byte_of_character()
    spelled = [table.get(character) for character in token]
    # An added token with a character outside of the alphabet stands for itself.
    return token.encode() if None in spelled else bytes(byte for byte in spelled if byte is not None)


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up, in order.

    Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
