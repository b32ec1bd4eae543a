"""What a chat template wants, found out by rendering small conversations with it.

For each trait in turn the first choice is kept with which everything that was said can be found in the prompt. About
fifteen conversations of a few words are rendered, forty for a template that refuses much; one that refuses all is taken
as the usual kind.
"""

import itertools
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from loguru import logger
from msgspec.structs import replace

from app.core.conversation import Message, Tool, ToolCall
from app.handler.lm.prompts.template_traits import ARGUMENT_STYLES, Traits

# The prompt, None where the template refuses.
Attempt = Callable[[list[Message], tuple[Tool, ...], Traits], str | None]

# Far more than any template takes; what is not found out by then is taken as usual.
_LIMIT_S: Final = 5.0

_SYSTEM: Final = Message("system", "zsystem")
_USER: Final = Message("user", "zuser")
_ANSWER: Final = Message("assistant", "zanswer")
_TOOL: Final = Tool(
    "zfunction",
    "zdescription",
    '{"type":"object","properties":{"ztext":{"type":"string","description":"zabout"}},"required":["ztext"]}',
)
_BARE_TOOL: Final = Tool(
    "zfunction",
    None,
    '{"type":"object","properties":{"zlist":{"type":"array","items":{"type":"string"}},'
    '"zmap":{"type":"object","properties":{"zinner":{"type":"integer"}}}}}',
)
_ARGUMENTS: Final = '{"ztext": "zq \\"zw\\"", "zmap": {"zk": [1, "zv"]}, "zflag": true, "znull": null}'
_CALL: Final = ToolCall("zid000001", "zcalled", _ARGUMENTS)
_OTHER_CALL: Final = ToolCall("zid000002", "zother", '{"ztext": "zelse"}')
_CALLING: Final = Message("assistant", "", tool_calls=(_CALL,))
_RESULT: Final = Message("tool", "zresult", tool_call_id=_CALL.id)
_OTHER_RESULT: Final = Message("tool", "zsecond", tool_call_id=_OTHER_CALL.id)
_SHOWN_CALL: Final = ("zcalled", "zq", "zk", "zv")
_LONG_ID: Final = "call_0123456789abcdef"

# What is wrong with the way in which arguments are shown, and how much.
_FLAWS: Final = (
    # A text without quotes where Python's syntax has them, and braces twice.
    (re.compile(r"=zq"), 4),
    (re.compile(r"\{\{\W{0,2}z"), 4),
    # An object in quotes, and JSON in JSON.
    (re.compile(r"""["'][|>]{0,2}\{\W{0,4}zk"""), 2),
    (re.compile(r"""\\+"zk|\\{2,}"zw"""), 2),
    # Python's spelling of an object, and of true and null but in Python's syntax.
    (re.compile(r"'zk'"), 1),
    (re.compile(r"zflag\b(?!=).{0,40}?True", re.DOTALL), 1),
    (re.compile(r"znull\b(?!=).{0,40}?None", re.DOTALL), 1),
)


def probe(attempt: Attempt, first: Traits) -> Traits:
    """The traits of a template, `first` where there is nothing to choose."""
    started = time.monotonic()
    probes = _Probes(attempt, first, started + _LIMIT_S)
    try:
        probes.find_all()
    except TimeoutError:
        logger.warning("the chat template is slow: not all that it wants was found out in {} s", _LIMIT_S)
    logger.debug("chat template: {}, found in {:.0f} ms", probes.found, 1000 * (time.monotonic() - started))
    return probes.found


class _Probes:
    """`found` is what is known so far; each trait is tried on top of it."""

    def __init__(self, attempt: Attempt, first: Traits, deadline: float) -> None:
        self._attempt = attempt
        self._deadline = deadline
        self.found = first

    def find_all(self) -> None:
        """Errors: TimeoutError."""
        if not self._find_messages():
            return
        native = self.found
        self._find_tools()
        if self.found.tools != "generic":
            self._find_calls()
        elif native.family is not None:
            self._find_telling(native)
        if self.found.calls != "content":
            self._find_call_details()
            self._find_reasoning()

    def _find_messages(self) -> bool:
        """How it takes messages without tools; whether it takes any."""
        plain = [
            replace(self.found, has_content_parts=parts, has_empty_tools=empty)
            for parts, empty in itertools.product((False, True), repeat=2)
        ]
        if not self._choose([_USER], ("zuser",), plain):
            return False
        self._choose(
            [_SYSTEM, _USER, _ANSWER, Message("system", "zlater"), _USER],
            ("zsystem", "zlater", "zanswer"),
            [self.found, replace(self.found, system="front"), replace(self.found, system="user")],
        )
        self._choose(
            [_USER, Message("user", "zagain"), _ANSWER, Message("assistant", "zmore"), _USER],
            ("zagain", "zanswer", "zmore"),
            [self.found, replace(self.found, alternates=True)],
        )
        return True

    def _find_tools(self) -> None:
        """How it shows tools."""
        places = [self.found, replace(self.found, tools="beside system"), replace(self.found, tools="in system")]
        if not self._choose([_USER], ("zfunction", "ztext"), places, _TOOL):
            self.found = replace(self.found, tools="generic", calls="content", results="user", family=None)
            return
        described = replace(self.found, needs_descriptions=True)
        self._choose([_USER], ("zfunction", "zmap"), [self.found, described], _BARE_TOOL)

    def _find_telling(self, native: Traits) -> None:
        """How it shows calls where it does not show tools: then these can be told, in the model's own form."""
        generic, self.found = self.found, native
        self._find_calls()
        example = self._example() if self.found.calls != "content" else None
        self.found = generic if example is None else replace(self.found, tools="told", call_example=example)

    def _example(self) -> str | None:
        """How the template shows a call, found beside a message without one."""
        call = ToolCall(_CALL.id, "function_name", '{"argument": "value"}')
        answered = self._text([_USER, _ANSWER, _USER], self.found, ())
        before, _, after = answered.partition(_ANSWER.content)
        calling = self._text([_USER, replace(_CALLING, tool_calls=(call,)), _USER], self.found, ())
        shown = calling[len(before) : len(calling) - len(after)]
        is_found = after and calling.startswith(before) and calling.endswith(after) and call.name in shown
        return shown.strip() if is_found else None

    def _find_calls(self) -> None:
        """How it shows a call and its result."""
        told = [_USER, _CALLING, _RESULT, _ANSWER, _USER]
        best: tuple[int, Traits] | None = None
        for results, omits, style in itertools.product(("tool", "user"), (False, True), ARGUMENT_STYLES):
            traits = replace(self.found, results=results, omits_empty_content=omits, arguments=style)
            text = self._text(told, traits)
            if all(word in text for word in (*_SHOWN_CALL, "zresult")):
                flaws = _flaws(text)
                if best is None or flaws < best[0]:
                    best = (flaws, traits)
            if best is not None and (best[0] == 0 or style == ARGUMENT_STYLES[-1]):
                break
        if best is None:
            written = replace(self.found, calls="content")
            self.found = replace(written, results="user")
            self._choose(told, (*_SHOWN_CALL, "zresult"), [written])
            return
        flaws, self.found = best
        self.found = replace(self.found, hides_calls=not self._shows(told, _SHOWN_CALL, self.found, ()))
        without_null = replace(self.found, drops_null=True)
        if flaws and _flaws(self._text(told, without_null)) < flaws:
            self.found = without_null

    def _find_call_details(self) -> None:
        """What it cannot take beside or in a call."""
        both = replace(_CALLING, tool_calls=(_CALL, _OTHER_CALL))
        self._choose(
            [_USER, both, _RESULT, _OTHER_RESULT, _ANSWER, _USER],
            (*_SHOWN_CALL, "zother", "zelse", "zresult", "zsecond"),
            [self.found, replace(self.found, calls="single")],
        )
        shown = (*_SHOWN_CALL, "zbefore")
        told = [_USER, replace(_CALLING, content="zbefore"), _RESULT]
        apart = replace(self.found, content="apart")
        if not self._choose(told, shown, [self.found] if self.found.alternates else [self.found, apart]):
            self.found = replace(self.found, content="hidden")
        told = [_SYSTEM, _USER, _CALLING, _RESULT]
        self._choose(told, ("zsystem",), [self.found, replace(self.found, system="user")])
        long_call, long_result = replace(_CALL, id=_LONG_ID), replace(_RESULT, tool_call_id=_LONG_ID)
        told = [_USER, replace(_CALLING, tool_calls=(long_call,)), long_result, _ANSWER, _USER]
        self._choose(told, _SHOWN_CALL, [self.found, replace(self.found, ids="nine")])
        self._find_names(self._text(told, self.found))
        told = [_USER, _CALLING, replace(_RESULT, content='{"zr": "zs"}'), _ANSWER, _USER]
        if '\\"zr' in self._text(told, self.found):
            as_object = replace(self.found, parses_results=True)
            if '"zr"' in self._text(told, as_object):
                self.found = as_object

    def _find_names(self, text: str) -> None:
        """Ids that the model itself would give, as it was trained on them."""
        if _LONG_ID not in text:
            return
        # It names calls itself, but shows the client's id with the result.
        if f"functions.{_CALL.name}:0" in text:
            self.found = replace(self.found, ids="by message")
        elif self.found.family in ("kimi-k2", "kimi-k2-thinking"):
            self.found = replace(self.found, ids="by conversation")

    def _find_reasoning(self) -> None:
        """How it takes the reasoning of a message with a call."""
        thinking = replace(_CALLING, reasoning="zreason")
        told = [_USER, thinking, _RESULT]
        as_part = replace(self.found, reasoning="part")
        # A list that was printed as it is shows everything, too.
        if not self._shows(told, ("zreason",), self.found) and "'type'" not in self._text(told, as_part):
            self._choose(told, ("zreason",), [as_part])
        speaking = replace(thinking, content="zbefore")
        self._choose([_USER, speaking, _RESULT], _SHOWN_CALL, [self.found, replace(self.found, joins_content=True)])

    def _choose(
        self, told: list[Message], words: Iterable[str], candidates: list[Traits], tool: Tool | None = None
    ) -> bool:
        """Keep the first candidate whose prompt has all `words`; whether there is one."""
        tools = None if tool is None else (tool,)
        for traits in candidates:
            if self._shows(told, words, traits, tools):
                self.found = traits
                return True
        return False

    def _shows(
        self, told: list[Message], words: Iterable[str], traits: Traits, tools: tuple[Tool, ...] | None = None
    ) -> bool:
        text = self._text(told, traits, tools)
        return bool(text) and all(word in text for word in words)

    def _text(self, told: list[Message], traits: Traits, tools: tuple[Tool, ...] | None = None) -> str:
        """The prompt, empty where the template refuses; with a tool where there are calls, unless told which."""
        if time.monotonic() > self._deadline:
            raise TimeoutError
        if tools is None:
            tools = (_TOOL,) if any(message.tool_calls for message in told) else ()
        return self._attempt(told, tools, traits) or ""


def _flaws(text: str) -> int:
    return sum(weight for pattern, weight in _FLAWS if pattern.search(text))
