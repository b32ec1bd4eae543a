"""How calls whose arguments are plain text between marks come to their end before their tokens are used up.

See `json_ending` for JSON. Only a mark ends such a text; when few tokens are left it is what comes next.
"""

from collections.abc import Iterator

from app.handler.lm.guides.ending import Ending, Outlook
from app.handler.lm.guides.json_ending import JsonClosers
from app.handler.lm.guides.masks import Words, tokens_in


class MarkupEnding(Ending):
    """Follows one row's calls: how much of the marks has been said."""

    __slots__ = ("_closers", "_closes", "_longest", "_said")

    def __init__(self, closers: JsonClosers, closes: tuple[bytes, ...]) -> None:
        """`closes` are the marks that end a text."""
        super().__init__(closers.vocabulary)
        self._closers = closers
        self._closes = closes
        self._longest = max(map(len, closes), default=0)
        self._said = b""

    def advance(self, text: bytes) -> None:
        """See `Ending.advance`."""
        self._said = (self._said + text)[-self._longest :]

    def narrowed(self, words: Words, outlook: Outlook) -> Words:
        """The end, else a mark's next token where that leads out of the text, else what closes JSON between marks."""
        if self._may_end(words):
            return words & self._vocabulary.ends
        is_quoted = False
        for rest in self._rests():
            if (found := outlook.after_text(rest)) is not None:
                token, after = found
                # Within a quoted text the mark is text like any other.
                is_quoted = self._is_free(after)
                if not is_quoted:
                    return self._vocabulary.mask([token])
        inner = self._closers.in_string if is_quoted else [] if self._is_free(words) else self._closers.outside
        closing = next((one for one in inner if (words & one).any()), words)
        return words & closing

    def _is_free(self, words: Words) -> bool:
        return 2 * len(tokens_in(words)) > self._vocabulary.size

    def _rests(self) -> Iterator[bytes]:
        """What may be left to say of a mark, those that have been begun first."""
        for num_said in range(self._longest - 1, -1, -1):
            for close in self._closes:
                if num_said < len(close) and self._said.endswith(close[:num_said]):
                    yield close[num_said:]

    def _fresh(self) -> "MarkupEnding":
        other = MarkupEnding(self._closers, self._closes)
        other._said = self._said
        return other
