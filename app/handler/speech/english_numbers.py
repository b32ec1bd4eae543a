"""Numbers as English words."""

from typing import Final

_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = ("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion")
_LONGEST_NUMBER: Final = 3 * len(_SCALES)
_ODD_ORDINALS: Final = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(digits: str) -> list[str]:
    """A whole number: 1205 is one thousand two hundred five. Longer ones than people count are read digit by digit."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > _LONGEST_NUMBER:
        return spelled(digits)
    if digits == "0":
        return ["zero"]
    words: list[str] = []
    for power, scale in reversed(list(enumerate(_SCALES))):
        if group := int(digits) // 1000**power % 1000:
            words += _under_thousand(group) + ([scale] if scale else [])
    return words


def ordinal(digits: str) -> list[str]:
    """The same in order: 21 is twenty first."""
    *words, last = cardinal(digits)
    if last.endswith("y"):
        return [*words, last[:-1] + "ieth"]
    return [*words, _ODD_ORDINALS.get(last, last + "th")]


def spelled(digits: str) -> list[str]:
    """Digit by digit."""
    return [_ONES[int(digit)] for digit in digits]


def year(digits: str) -> list[str]:
    """Four digits as a year: nineteen oh five, two thousand six, twenty twenty."""
    number = int(digits)
    century, rest = divmod(number, 100)
    if number < 1000 or 2000 <= number < 2010:
        return cardinal(digits)
    if rest == 0:
        return cardinal(digits) if century % 10 == 0 else [*_under_thousand(century), "hundred"]
    return [*_under_thousand(century), *(["oh"] if rest < 10 else []), *_under_thousand(rest)]


def decimal(whole: str, fraction: str) -> list[str]:
    """3.14 is three point one four."""
    return [*(cardinal(whole) if whole else []), "point", *spelled(fraction)]


def plural(words: list[str]) -> list[str]:
    """1990s is nineteen nineties."""
    *rest, last = words
    if last.endswith("y"):
        return [*rest, last[:-1] + "ies"]
    return [*rest, last + ("es" if last.endswith("x") else "s")]


def _under_thousand(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10])
        rest %= 10
    return words + ([_ONES[rest]] if rest else [])
