"""Prompts that do not fit a model, and a quick look at texts far beyond what does."""

from collections.abc import Callable, Sequence

from app.errors import ContextLengthExceeded

# More than the characters per token of any text that people write.
_CHARACTERS_PER_TOKEN = 16
# What a cut may add: WordPiece takes a long word for one token, and what is left of it for up to a hundred.
_CUT_TOKENS = 100


def num_tokens_at_least(text: str, encode: Callable[[str], Sequence[int]], limit: int) -> int:
    """Whether tokenizing all of a long text can be spared: a count over `limit` that it surely has, else 0.

    Only its beginning is tokenized. The characters alone say too little: a tokenizer may drop spaces, or know no token
    for a word however long.
    """
    head = text[: _CHARACTERS_PER_TOKEN * (limit + _CUT_TOKENS)]
    if len(head) == len(text):
        return 0
    count = len(encode(head)) - _CUT_TOKENS
    return count if count > limit else 0


def too_long(context_length: int, count: str, param: str) -> ContextLengthExceeded:
    """Of a prompt with `count` tokens, in words; `param` is where the client has put it."""
    return ContextLengthExceeded(
        f"This model's context is {context_length} tokens; the prompt has {count} tokens, which leaves no "
        f"room for an answer. Shorten the {param}.",
        param=param,
    )
