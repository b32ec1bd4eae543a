"""Texts and token ids as clients give them: one text, several, one token array or several."""

from typing import Annotated, Any

from pydantic import Discriminator, Field

Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
# Fail-fast: a list of a million wrong things is one error.
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]


def _form(given: Any) -> str | None:
    """Which form of input was meant, by its first element: so that an error is about this form alone."""
    match given:
        case str():
            return "a text"
        case [] | [str(), *_]:
            return "some texts"
        case [list(), *_]:
            return "token lists"
        case [int() | float(), *_]:
            return "some tokens"
        case _:
            return None


# Tells the four branches of a union apart, which have these as their tags.
INPUT_FORM = Discriminator(
    _form,
    custom_error_type="input_form",
    custom_error_message="Input should be a text, a list of texts, a list of tokens or a list of such lists",
)
