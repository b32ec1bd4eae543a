"""Which family of tool-call and reasoning markup a model writes, from what comes with it."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.text.parser_names import PARSER_NAMES
from app.text.signs import SIGNS, TOKEN_SIGNS, Sign

_TOOLS: Final = re.compile(r"\btool(s|_calls)\b")
_BETWEEN: Final = re.compile(r"[^a-z0-9]")


@dataclass(frozen=True, slots=True)
class Detected:
    """A family, None where it is not known; `why` is a sentence for people, without its full stop."""

    family: str | None
    why: str


def detect_family(template: str | None, added_tokens: frozenset[str], hint: str | None) -> Detected:
    """The family of a model.

    The template decides, then tokens that only one family has, then `hint`: the name or the text of a parser in the
    tokenizer's configuration, which converters write from what they guessed themselves.
    """
    if template is None:
        return Detected(None, "there is no chat template")
    if sign := _sign(SIGNS, lambda text: text in template):
        return Detected(sign.family, f"{sign.family}, from {_quoted(sign)} in the chat template")
    if sign := _sign(TOKEN_SIGNS, lambda text: text in added_tokens):
        return Detected(sign.family, f"{sign.family}, from the tokens {_quoted(sign)}")
    if hint is not None and (family := _hinted(hint)):
        return Detected(family, f"{family}, from the tokenizer's configuration")
    return _without_sign(template)


def family_of_option(name: str, detected: str | None = None) -> str | None:
    """The family that a user means by a parser's or a family's name, None for a name that is not known.

    Names of parsers that read several families mean the `detected` one where it is among them.
    """
    families = _FAMILIES_OF_NAME.get(_folded(name), ())
    return detected if detected in families else next(iter(families), None)


def _without_sign(template: str) -> Detected:
    if _TOOLS.search(template):
        return Detected(None, "the chat template's markup of tool calls is not known")
    # The generic prompt for tools asks for calls as this family writes them.
    if "</think>" in template:
        return Detected("qwen3", "qwen3, from '</think>' in the chat template, which knows no tools")
    return Detected(None, "the chat template knows no tools")


def _sign(signs: tuple[Sign, ...], is_found: Callable[[str], bool]) -> Sign | None:
    return next(
        (sign for sign in signs if all(map(is_found, sign.all_of)) and not any(map(is_found, sign.none_of))), None
    )


def _hinted(hint: str) -> str | None:
    family = family_of_option(hint)
    if family is None and (sign := _sign(SIGNS, lambda text: text in hint)):
        family = sign.family
    return family


def _quoted(sign: Sign) -> str:
    return " and ".join(f"'{text}'" for text in sign.all_of)


def _folded(name: str) -> str:
    """Names are the same whatever stands between their letters and digits."""
    return _BETWEEN.sub("", name.lower())


def _families_of_name() -> dict[str, tuple[str, ...]]:
    own = itertools.chain((sign.family for sign in SIGNS), *PARSER_NAMES.values())
    return {_folded(family): (family,) for family in own} | {
        _folded(name): families for name, families in PARSER_NAMES.items()
    }


_FAMILIES_OF_NAME: Final = _families_of_name()
