"""How English text is read: a piece of it, from one space to the next, as plain words and marks of punctuation."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from app.handler.speech import english_numbers as numbers
from app.handler.speech.script import PAUSES

# Marks that are said as a pause or a tone of voice, and what is read as one of them.
MARKS: Final = PAUSES - {" "}
_AS_MARK: Final = str.maketrans(
    {"–": "—", "―": "—", "[": "(", "]": ")", "{": "(", "}": ")", "«": "“", "»": "”", "„": "“", "‘": "'", "’": "'"}
    | {"。": ".", "、": ",", "，": ",", "！": "!", "？": "?", "：": ":", "；": ";", "¿": "", "¡": "", "\u00ad": ""}
)


def _table(pairs: str) -> dict[str, str]:
    """From "dr doctor, etc et cetera": what is read, and as what."""
    return dict(pair.split(maxsplit=1) for pair in pairs.split(", "))


_SYMBOLS: Final = _table(
    "% percent, & and, + plus, @ at, = equals, # number, ° degrees, / slash, × times, ÷ divided by, ± plus or minus, "
    "< less than, > greater than, ~ about, © copyright, ™ trademark, ® registered, § section, √ root, \\ backslash, "
    "µ micro, μ micro, π pi, ∞ infinity, ≈ about, ≤ at most, ≥ at least, ⁄ slash"
)
_CURRENCIES: Final = _table("$ dollar, £ pound, € euro, ¥ yen, ₹ rupee, ₩ won, ₿ bitcoin")
_CENTS: Final = _table("dollar cent, pound penny, euro cent, yen sen, rupee paisa, won jeon, bitcoin satoshi")
_PLURALS: Final = _table("penny pence, yen yen, sen sen, won won, jeon jeon, paisa paise")
_SCALES: Final = _table(
    "hundred hundred, thousand thousand, million million, billion billion, trillion trillion, "
    "k thousand, m million, b billion, bn billion"
)
_ABBREVIATIONS: Final = _table(
    "mr mister, mrs missus, ms miz, dr doctor, prof professor, st saint, jr junior, sr senior, vs versus, "
    "etc et cetera, e.g for example, i.e that is, approx approximately, dept department, inc incorporated, "
    "ltd limited, corp corporation, gen general, capt captain, sgt sergeant, vol volume, "
    "jan january, feb february, aug august, sept september, oct october, nov november, dec december"
)
# Those that a sentence may end with.
_LAST_ABBREVIATIONS: Final = frozenset({"corp", "dept", "etc", "inc", "jr", "ltd", "sr"})
# After a number.
_UNITS: Final = _table(
    "km kilometers, cm centimeters, mm millimeters, kg kilograms, mg milligrams, kmh kilometers per hour, "
    "mph miles per hour, ft feet, lb pounds, lbs pounds, oz ounces, kb kilobytes, mb megabytes, gb gigabytes, "
    "tb terabytes, ms milliseconds, hz hertz, khz kilohertz, mhz megahertz, ghz gigahertz, kw kilowatts, ml milliliters"
)
_FRACTIONS: Final = _table("1⁄2 half, 1⁄4 quarter, 3⁄4 three quarters, 1⁄3 third, 2⁄3 two thirds")
# Digits of the first number in 1990-1995 and the dash; what is longer is no range.
_LONGEST_RANGE: Final = 10
_NUMBER: Final = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+(?!\.?\d)|\.\d+|\d+"
_TOKEN: Final = re.compile(
    rf"(?P<fraction>{'|'.join(_FRACTIONS)})|(?P<time>\d{{1,2}}:[0-5]\d(?!\d))|(?P<money>[$£€¥₹₩₿])(?P<amount>{_NUMBER})(?P<scale>(?:[kmb]|bn)\b)?"
    rf"|(?P<minus>(?<![\w)])[-−])?(?P<number>{_NUMBER})(?P<tail>(?:st|nd|rd|th|'?s)(?![a-z]))?"
    r"|(?P<initials>(?:[A-Za-z]\.){2,})|(?P<word>[A-Za-z]+(?:'[A-Za-z]+)*)"
    r"|(?P<inner>[.:_-](?=\w))|(?P<mark>[;:,.!?—…\"()“”])|(?P<other>.)",
    re.IGNORECASE | re.ASCII,
)


def read(piece: str, following: str = "") -> list[str]:
    """Words in the letters a to z, with capitals and apostrophes as they are written, and marks, each by itself.

    `following` is the next piece, which a currency may wait for. Empty where nothing of it is said in English.
    """
    text = _plain(piece)
    name = text.lower().rstrip(",").removesuffix(".")
    if (said := _ABBREVIATIONS.get(name)) and text.rstrip(",").endswith("."):
        is_end = not following or (name in _LAST_ABBREVIATIONS and following[0].isupper())
        return [*said.split(), *("," if text.endswith(",") else "." if is_end else "")]
    found = list(_TOKEN.finditer(text))
    words: list[str] = []
    for place, match in enumerate(found):
        after = found[place + 1].group() if place + 1 < len(found) else ""
        words += _said(match, before=text[: match.start()], after=after, following=following)
    return words


def owed(piece: str, following: str) -> str:
    """The currency that is said after `following`, as in $5 million; empty where there is none."""
    match = _TOKEN.match(_plain(piece))
    if match and match["money"] and match.end() == len(_plain(piece)) and not match["scale"] and _is_scale(following):
        return _unit(_CURRENCIES[match["money"]], is_one=False)
    return ""


def _plain(piece: str) -> str:
    """The piece in the letters, digits and marks of English, where there are such for it."""
    piece = re.sub(r"(?<=\d)(?=[½¼⅓])", " and a ", re.sub(r"(?<=\d)(?=[¾⅔])", " and ", piece))
    decomposed = unicodedata.normalize("NFKD", piece.translate(_AS_MARK))
    letters = (char for char in decomposed if not unicodedata.combining(char))
    text = "".join(_ascii_digit(char) for char in letters).translate(_AS_MARK)
    return re.sub(r"--+", "—", re.sub(r"\.\.+", "…", text))


def _ascii_digit(char: str) -> str:
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


def _said(match: re.Match[str], *, before: str, after: str, following: str) -> Iterator[str]:
    text = match.group()
    match match.lastgroup:
        case "fraction":
            yield from _FRACTIONS[text].split()
        case "time":
            yield from _time(text)
        case "amount" | "scale":
            yield from _money(match, following)
        case "number" | "tail":
            yield from _number(match, before, after)
        case "initials":
            yield from text.upper().split(".")[:-1]
            yield from () if after or following else "."
        case "word":
            yield from _word(text, before)
        case "mark":
            yield text
        case "inner":
            # A dot inside an address is said, a hyphen is not.
            if text == "." and before:
                yield "dot"
            elif text == ":":
                yield ":"
        case _:
            # Before anything but a number it is the sign of a heading.
            yield from _SYMBOLS.get(text, "").split() if text != "#" or after[:1].isdigit() else ()


def _word(text: str, before: str) -> Iterator[str]:
    if before[-1:].isdigit() and (unit := _UNITS.get(text.lower())):
        yield from unit.split()
    elif re.fullmatch("[A-Z]{2,}s", text):
        yield f"{text[:-1]}'s"
    else:
        # camelCase and the like are several words; NASA's and McDonald stay.
        yield from re.findall(r"[A-Z]+(?![a-z])(?:'[a-z]+)?|[A-Z]?[a-z]+(?:'[A-Za-z]+)*|[A-Z]", text)


def _time(text: str) -> list[str]:
    hours, minutes = text.split(":")
    if minutes == "00":
        return [*numbers.cardinal(hours), "o'clock"] if 1 <= int(hours) <= 12 else [*numbers.cardinal(hours), "hundred"]
    return [*numbers.cardinal(hours), *(["oh"] if minutes[0] == "0" else []), *numbers.cardinal(minutes)]


def _money(match: re.Match[str], following: str) -> list[str]:
    unit = _CURRENCIES[match["money"]]
    whole, _, fraction = match["amount"].replace(",", "").partition(".")
    whole = whole or "0"
    if scale := match["scale"]:
        scaled = numbers.decimal(whole, fraction) if fraction else numbers.cardinal(whole)
        return [*scaled, _SCALES[scale.lower()], _unit(unit, is_one=False)]
    if _is_scale(following):
        return numbers.decimal(whole, fraction) if fraction else numbers.cardinal(whole)
    if len(fraction) > 2:
        return [*numbers.decimal(whole, fraction), _unit(unit, is_one=False)]
    cents = fraction.ljust(2, "0").lstrip("0")
    big = [*numbers.cardinal(whole), _unit(unit, is_one=whole == "1")]
    small = [*numbers.cardinal(cents), _unit(_CENTS[unit], is_one=cents == "1")] if cents else []
    if int(whole) == 0 and small:
        return small
    return [*big, "and", *small] if small else big


def _number(match: re.Match[str], before: str, after: str) -> list[str]:
    text, tail = match["number"], (match["tail"] or "").lower().lstrip("'")
    whole, _, fraction = text.replace(",", "").partition(".")
    sign = ["minus"] if match["minus"] else []
    if fraction:
        return [*sign, *numbers.decimal(whole, fraction)]
    if tail in ("st", "nd", "rd", "th"):
        return [*sign, *numbers.ordinal(whole)]
    first = re.search(r"(\d+)[-—]$", before[-_LONGEST_RANGE:])
    is_range = first is not None and len(first[1]) == len(whole)
    # Numbers with a zero in front, of telephones, versions and the like.
    if (whole[0] == "0" and len(whole) > 1) or (before[-1:] in ("-", ".") and len(whole) > 2 and not is_range):
        words = numbers.spelled(whole)
    elif len(whole) == 4 and "," not in text and "1100" <= whole <= "2099" and not after.isalpha():
        words = numbers.year(whole)
    else:
        words = numbers.cardinal(whole)
    return [
        *sign,
        *(["to"] if is_range and whole[0] != "0" else []),
        *(numbers.plural(words) if tail == "s" else words),
    ]


def _is_scale(piece: str) -> bool:
    word = piece.lower().rstrip(",.;:!?)")
    return len(word) > 2 and word in _SCALES


def _unit(name: str, *, is_one: bool) -> str:
    return name if is_one else _PLURALS.get(name, name + "s")
