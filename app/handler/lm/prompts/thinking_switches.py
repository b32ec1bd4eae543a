"""How a model should think, as the variables that its chat template reads for it."""

import re
from dataclasses import dataclass
from typing import Final

from app.core.conversation import Effort, Reasoning

# True or False.
_SWITCHES: Final = ("enable_thinking", "thinking", "enable_reasoning", "reasoning")
# One of two words, the first of these that the template spells.
_MODES: Final = ("thinking_mode", "thinking_option")
_MODE_WORDS: Final = {True: ("enabled", "thinking", "on"), False: ("disabled", "chat", "off")}
_EFFORTS: Final = ("reasoning_effort", "thinking_effort", "reasoning_strength")
# The words for an effort, and the one where the template spells none of them.
_EFFORT_WORDS: Final[dict[Effort, tuple[tuple[str, ...], str | None]]] = {
    "none": (("none", "no_think"), None),
    "minimal": (("minimal", "low"), "low"),
    "low": (("low", "minimal"), "low"),
    "medium": (("medium",), "medium"),
    "high": (("high",), "high"),
    "xhigh": (("xhigh", "max", "high"), "high"),
}
# True where the effort is one of these.
_EFFORT_SWITCHES: Final[dict[str, tuple[Effort, ...]]] = {
    "low_effort": ("minimal", "low"),
    "medium_effort": ("medium",),
}
# In a system message, for a template that looks for it there.
_NO_THINKING: Final = "/no_think"
_BUDGETS: Final = ("thinking_budget", "reasoning_budget")

_CODE: Final = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_NAME: Final = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class ThinkingSwitches:
    """The variables that a template reads, and the words that it compares them with.

    Where it reads none, how the model should think has no effect on the prompt.
    """

    variables: frozenset[str]
    words: frozenset[str]

    @classmethod
    def of(cls, source: str) -> "ThinkingSwitches":
        """Those of a template's text."""
        code: list[str] = _CODE.findall(source)
        words = frozenset(quoted[1:-1] for block in code for quoted in _QUOTED.findall(block))
        return cls(frozenset(name for block in code for name in _NAME.findall(_QUOTED.sub("''", block))), words)

    def variables_for(self, asked: Reasoning) -> dict[str, object]:
        """The values of those variables. An effort means thinking, the effort "none" means none."""
        is_enabled = asked.is_enabled
        if is_enabled is None and asked.effort is not None:
            is_enabled = asked.effort != "none"
        values: dict[str, object] = {}
        if is_enabled is not None:
            values |= dict.fromkeys(_SWITCHES, is_enabled)
            if word := self._spelled(_MODE_WORDS[is_enabled]):
                values |= dict.fromkeys(_MODES, word)
        if word := self._effort(is_enabled, asked.effort):
            values |= dict.fromkeys(_EFFORTS, word)
        values |= {name: True for name, efforts in _EFFORT_SWITCHES.items() if is_enabled and asked.effort in efforts}
        if (budget := 0 if is_enabled is False else asked.max_tokens) is not None:
            values |= dict.fromkeys(_BUDGETS, budget)
        return {name: value for name, value in values.items() if name in self.variables}

    def message_for(self, asked: Reasoning) -> str | None:
        """What a system message must say."""
        is_off = asked.is_enabled is False or (asked.is_enabled is None and asked.effort == "none")
        return _NO_THINKING if is_off and _NO_THINKING in self.words else None

    def _effort(self, is_enabled: bool | None, effort: Effort | None) -> str | None:
        """The word for an effort; None leaves it to the template."""
        none, _ = _EFFORT_WORDS["none"]
        if is_enabled is False:
            # The least there is, where there is no other way to say it.
            has_switch = self.variables.intersection(_SWITCHES + _MODES)
            return self._spelled(none) or (None if has_switch else "low")
        if effort is not None:
            words, otherwise = _EFFORT_WORDS[effort]
            if effort == "medium" and self.words >= {"low", "high"}:
                # It may refuse what it does not spell.
                otherwise = "high"
            return self._spelled(words) or otherwise
        # A template that knows a word for none may mean it where nothing is said.
        return "high" if is_enabled and self._spelled(none) else None

    def _spelled(self, words: tuple[str, ...]) -> str | None:
        return next((word for word in words if word in self.words), None)
