"""How a family of models marks reasoning and calls: data that reading, forcing and constraining share."""

import re
from dataclasses import dataclass

from app.text.dict_calls import DictCalls
from app.text.element_calls import ElementCalls
from app.text.json_calls import JsonCalls, NamedJson
from app.text.python_calls import PythonCalls
from app.text.source import SPACE
from app.text.tag_calls import TagCalls

Body = JsonCalls | NamedJson | TagCalls | ElementCalls | DictCalls | PythonCalls


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The texts that open and close reasoning, the family's own first; there may be others.

    With `is_at_start` the opening text counts at the start of the answer only: it is ordinary words.
    """

    open: str
    close: str
    other_opens: tuple[str, ...] = ()
    other_closes: tuple[str, ...] = ()
    is_at_start: bool = False

    @property
    def opens(self) -> tuple[str, ...]:
        return tuple(one.strip(SPACE) for one in (self.open, *self.other_opens))

    @property
    def closes(self) -> tuple[str, ...]:
        return tuple(one.strip(SPACE) for one in (self.close, *self.other_closes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where calls stand: `open`, what the body is, `close`.

    Around each call there is `wrap`, around all of them `section`; between two calls `between`. All are as the family
    itself writes them; in reading, white space at their edges may be there or not, and only `open` has to be. Without
    `open` calls count at the start of the answer only, and only of tools that are offered. `sign` is the text of these
    that tells that a call follows, where it is not the first.
    """

    open: str
    body: Body
    close: str = ""
    wrap: tuple[str, str] = ("", "")
    section: tuple[str, str] = ("", "")
    between: str = ""
    sign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A message inside the answer that says in a header whom it is for.

    The header begins with one of `opens` (at the start of the answer with one of `begun`, the prompt having opened it)
    and goes on, in characters of `chars`, to `end`. `header` is matched against all of it but `end`: its group `call`
    is a tool's name, whose arguments then are the message, and so is its group `recipient` if that tool is offered;
    its group `thought` says that it is reasoning. With `is_for_offered` there are no other recipients. `turn` begins
    another message, `answer` is the header of one for the user; empty where an answer needs none.
    """

    opens: tuple[str, ...]
    begun: tuple[str, ...]
    chars: re.Pattern[str]
    end: str
    header: re.Pattern[str]
    has_calls: bool = True
    is_for_offered: bool = False
    turn: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models. `regions` has the family's own way of calling first; `noise` are texts that mean nothing."""

    name: str
    regions: tuple[Region, ...] = ()
    reasoning: Reasoning | None = None
    frame: Frame | None = None
    noise: tuple[str, ...] = ()


def prompt_opens_reasoning(family: Family, prompt_tail: str) -> bool:
    """Whether the end of a prompt has opened the reasoning that the model then goes on with."""
    opens = family.reasoning.opens if family.reasoning else ()
    return prompt_tail.rstrip(SPACE).endswith(opens)
