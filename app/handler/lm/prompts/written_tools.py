"""Tools, calls and results written into messages, where a chat template has no place of its own for them.

A model whose template knows no tools reads at the end of its system message:

    # Tools

    You can call these functions; each is described with a JSON schema of its arguments:
    <tools>
    {"name": "get_weather", "description": "...", "parameters": {...}}
    </tools>

    To call one or several, answer in this form, once for each call:
    <tool_call>
    {"name": <name of the function>, "arguments": <object of its arguments>}
    </tool_call>

Its earlier calls stand in its own messages in the same form, their results in a message of the user between
<tool_response> and </tool_response>. Most models with tools were trained on this form (Hermes, Qwen).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from string import Template
from typing import Final

from app.handler.lm.prompts.template_fields import Fields, json_text

_GENERIC_CALL: Final = """\
<tool_call>
{"name": <name of the function>, "arguments": <object of its arguments>}
</tool_call>"""
_PROMPT: Final = Template("""\
# Tools

You can call these functions; each is described with a JSON schema of its arguments:
<tools>
$functions
</tools>

To call one or several, answer in this form, once for each call:
$call

Answer without a call where no function is needed.""")


@dataclass(frozen=True, slots=True)
class _CallForm:
    """How calls are written: $json is name and arguments in one object, $keywords are arguments of Python."""

    before: str
    each: str
    between: str
    after: str


_GENERIC: Final = _CallForm("", "<tool_call>\n$json\n</tool_call>", "\n", "")
_GRANITE: Final = _CallForm("<|tool_call|>[", "$json", ", ", "]")
_KIMI: Final = _CallForm(
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>functions.$name:$index<|tool_call_argument_begin|>$arguments<|tool_call_end|>",
    "",
    "<|tool_calls_section_end|>",
)
# Of families whose own templates show tools, but no calls.
_FORMS: Final = {
    "granite3": _GRANITE,
    "granite3.2-thinking": _GRANITE,
    "granite3.3-thinking": _GRANITE,
    "phi4-mini": _CallForm("<|tool_call|>[", "$json", ", ", "]<|/tool_call|>"),
    "lfm2": _CallForm("<|tool_call_start|>[", "$name($keywords)", ", ", "]<|tool_call_end|>"),
    "kimi-k2": _KIMI,
    "kimi-k2-thinking": _KIMI,
}


def tools_prompt(functions: Iterable[Fields], example: str | None) -> str:
    """What a system message says of the tools; `example` is a call in the model's own form."""
    described = "\n".join(map(json_text, functions))
    return _PROMPT.substitute(functions=described, call=example or _GENERIC_CALL)


def written_calls(calls: Iterable[tuple[str, Fields]], family: str | None) -> str:
    """Calls, names with arguments, in the form of `family` where that is known, else in the generic one."""
    form = _FORMS.get(family or "", _GENERIC)
    texts = [
        Template(form.each).substitute(
            name=name,
            index=index,
            arguments=json_text(arguments),
            json=json_text({"name": name, "arguments": arguments}),
            keywords=", ".join(f"{key}={value!r}" for key, value in arguments.items()),
        )
        for index, (name, arguments) in enumerate(calls)
    ]
    return f"{form.before}{form.between.join(texts)}{form.after}"


def written_result(content: str) -> str:
    """A result as text in a user's message."""
    return f"<tool_response>\n{content}\n</tool_response>"
