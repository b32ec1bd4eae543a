"""Log-probabilities as text completions have them: four lists of one length, with offsets into the text."""

import codecs

import msgspec

from app.core.events import EchoDelta, PromptToken, TextDelta, TokenLogprob


class LegacyLogprobs(msgspec.Struct):
    """The tokens of a text, or of a piece of it.

    Source: https://platform.openai.com/docs/api-reference/completions/object
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    def extend(self, more: "LegacyLogprobs") -> None:
        """Take in those of the next piece."""
        self.tokens += more.tokens
        self.token_logprobs += more.token_logprobs
        self.top_logprobs += more.top_logprobs
        self.text_offset += more.text_offset


class LogprobsWriter:
    """Writes those of one choice, piece by piece."""

    def __init__(self) -> None:
        self._echo = ""
        self._offset = 0
        self._is_answer = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def write(self, event: EchoDelta | TextDelta) -> LegacyLogprobs | None:
        """The tokens of the next piece; None where nobody asked for any."""
        if isinstance(event, EchoDelta):
            self._echo += event.text
        elif not self._is_answer:
            self._is_answer = True
            self._offset = len(self._echo)
            self._decode(b"", True)
        if event.logprobs is None:
            return None
        written = LegacyLogprobs([], [], [], [])
        for token in event.logprobs:
            if token.token and not _goes_on(token.token):
                # The character before it will never be complete.
                self._advance(self._decode(b"", True))
            written.tokens.append(_name(token.token))
            written.token_logprobs.append(token.logprob)
            written.top_logprobs.append(_top(token))
            written.text_offset.append(self._offset)
            self._advance(self._decode(token.token))
        return written

    def _advance(self, text: str) -> None:
        """Go on behind a token's text. The echo is the client's own text: a token that the tokenizer has put before it,
        or a space, is no part of it.
        """
        if self._is_answer or self._echo.startswith(text, self._offset):
            self._offset += len(text)
        elif text.startswith(" ") and self._echo.startswith(text[1:], self._offset):
            self._offset += len(text) - 1


def _top(token: PromptToken | TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens and the one that came, as OpenAI has it; of two with the same text the likelier."""
    if token.logprob is None:
        return None
    top: dict[str, float] = {}
    for one in (*token.top, token):
        top.setdefault(_name(one.token), one.logprob or 0.0)
    return top


def _goes_on(token: bytes) -> bool:
    """Whether it begins inside a character."""
    return 0x80 <= token[0] < 0xC0


def _name(token: bytes) -> str:
    """A token's text; where it is a part of a character, its bytes, as OpenAI writes them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
