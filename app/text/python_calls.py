"""Calls written as Python."""

import re
from dataclasses import dataclass
from typing import Final

from app.text.calls import Calls, another_follows
from app.text.literals import PYTHON, read_value
from app.text.source import Broken, Cut, Reading, Source
from app.text.strings import encoded

_NAME: Final = re.compile(r"[\w.\-]+")
_KEYWORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class PythonCalls:
    """Calls with keyword arguments; `is_list` says that the family writes brackets around them."""

    is_list: bool = True
    between: str = ", "

    def read(self, source: Source, calls: Calls, close: str) -> Reading[None]:
        is_list = (yield from source.skip_space()) == "["
        if self.is_list and not is_list:
            raise Broken
        source.at += is_list
        while True:
            yield from source.skip_space()
            yield from _read_call(source, calls)
            if not (yield from another_follows(source, _begins, is_list=is_list)):
                return


def _read_call(source: Source, calls: Calls) -> Reading[None]:
    name = yield from source.match(_NAME)
    if (yield from source.peek()) != "(":
        raise Broken
    tool = calls.accept(name)
    source.at += 1
    is_first = True
    while (char := (yield from source.skip_space())) != ")":
        if not char:
            raise Cut
        if not is_first:
            if char != ",":
                raise Broken
            source.at += 1
            if (yield from source.skip_space()) == ")":
                break
        yield from _read_argument(source, calls, tool.name)
        is_first = False
    source.at += 1
    if is_first:
        calls.start(tool.name)
        calls.write("{")
    calls.write("}")
    calls.end()


def _read_argument(source: Source, calls: Calls, tool: str) -> Reading[None]:
    keyword = yield from source.match(_KEYWORD)
    if not keyword:
        raise Broken
    if not (yield from source.skip_space()):
        raise Cut
    if not (yield from source.take("=")):
        raise Broken
    if not calls.is_started:
        calls.start(tool)
        calls.write("{")
    else:
        calls.write(", ")
    calls.write(f"{encoded(keyword)}: ")
    yield from source.skip_space()
    yield from read_value(source, calls.write, PYTHON)


def _begins(char: str) -> bool:
    return char.isalpha() or char == "_"
