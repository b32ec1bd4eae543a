import pytest

from app.core.conversation import Effort, Reasoning
from app.handler.lm.prompts.thinking_switches import ThinkingSwitches

SWITCH = "{% if enable_thinking %}<think>{% endif %}"
# Raises for any other word.
ENUMERATED = "{% if reasoning_effort not in ['high', 'low', 'no_think'] %}{{ raise_exception('effort') }}{% endif %}"
# Shows any word.
FREE = "{% if not reasoning_effort %}{% set reasoning_effort = 'medium' %}{% endif %}Reasoning: {{ reasoning_effort }}"


def values(template: str, **asked: object) -> dict[str, object]:
    return ThinkingSwitches.of(template).variables_for(Reasoning(**asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["enable_thinking", "thinking", "enable_reasoning", "reasoning"])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_switch_by_any_name(name: str, is_enabled: bool) -> None:
    assert values("{% if " + name + " %}", is_enabled=is_enabled) == {name: is_enabled}


@pytest.mark.parametrize(
    ("template", "on", "off"),
    [
        ("{% if thinking_mode == 'enabled' %}{% elif thinking_mode == \"disabled\" %}", "enabled", "disabled"),
        ("{% if thinking_mode == 'thinking' %}{% elif thinking_mode == 'chat' %}", "thinking", "chat"),
    ],
)
def test_a_mode_in_the_templates_own_words(template: str, on: str, off: str) -> None:
    assert values(template, is_enabled=True) == {"thinking_mode": on}
    assert values(template, is_enabled=False) == {"thinking_mode": off}


def test_what_is_not_asked_for_is_left_to_the_template() -> None:
    assert values(SWITCH + ENUMERATED + "{{ thinking_budget }}") == {}


def test_a_template_without_any_is_left_alone() -> None:
    template = "You may be thinking. {# enable_thinking #}{{ m.thinking }}{{ m['reasoning'] }}{{ 'reasoning_effort' }}"
    assert values(template, is_enabled=True, effort="high", max_tokens=5) == {}


@pytest.mark.parametrize(
    ("effort", "enumerated", "free"),
    [
        ("none", "no_think", "low"),
        ("minimal", "low", "low"),
        ("low", "low", "low"),
        ("medium", "high", "medium"),
        ("high", "high", "high"),
        ("xhigh", "high", "high"),
    ],
)
def test_efforts_in_the_templates_own_words(effort: Effort, enumerated: str, free: str) -> None:
    assert values(ENUMERATED, effort=effort) == {"reasoning_effort": enumerated}
    assert values(FREE, effort=effort) == {"reasoning_effort": free}


def test_the_highest_effort_that_a_template_spells() -> None:
    assert values("{% if thinking_effort == 'max' %}", effort="xhigh") == {"thinking_effort": "max"}
    assert values("{% if thinking_effort == 'max' %}", effort="high") == {"thinking_effort": "high"}


def test_an_effort_means_thinking() -> None:
    assert values(SWITCH, effort="low") == {"enable_thinking": True}
    assert values(SWITCH, effort="none") == {"enable_thinking": False}
    assert values(SWITCH + FREE, effort="low") == {"enable_thinking": True, "reasoning_effort": "low"}
    assert values(SWITCH + FREE, effort="none") == {"enable_thinking": False}


def test_what_is_switched_off_has_no_effort() -> None:
    assert values(SWITCH + FREE, is_enabled=False, effort="high") == {"enable_thinking": False}


def test_thinking_where_no_effort_may_mean_none() -> None:
    assert values(ENUMERATED, is_enabled=True) == {"reasoning_effort": "high"}
    assert values(FREE, is_enabled=True) == {}


def test_efforts_that_are_switches() -> None:
    template = SWITCH + "{% if low_effort %}{% elif medium_effort %}"
    assert values(template, effort="low") == {"enable_thinking": True, "low_effort": True}
    assert values(template, effort="medium") == {"enable_thinking": True, "medium_effort": True}
    assert values(template, effort="high") == {"enable_thinking": True}


def test_a_budget() -> None:
    assert values("{% if thinking_budget == 0 %}", max_tokens=100) == {"thinking_budget": 100}
    assert values("{% if thinking_budget == 0 %}", is_enabled=False, max_tokens=100) == {"thinking_budget": 0}


def test_a_word_in_a_system_message() -> None:
    switches = ThinkingSwitches.of("{% if '/no_think' in content %}")
    assert switches.message_for(Reasoning(is_enabled=False)) == "/no_think"
    assert switches.message_for(Reasoning(effort="none")) == "/no_think"
    assert switches.message_for(Reasoning(is_enabled=True, effort="none")) is None
    assert switches.message_for(Reasoning()) is None
    assert ThinkingSwitches.of(SWITCH).message_for(Reasoning(is_enabled=False)) is None
