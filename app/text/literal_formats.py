"""Ways of writing calls in JSON, in Python and in gemma's notation."""

from typing import Final

from app.text.dict_calls import DictCalls
from app.text.family import Region
from app.text.json_calls import JsonCalls, NamedJson
from app.text.python_calls import PythonCalls

LIST: Final = JsonCalls(is_list=True, between=", ")
PARAMETERS: Final = '{"name": "{name}", "parameters": {arguments}}'
HERMES: Final = Region(open="<tool_call>\n", body=JsonCalls(), close="\n</tool_call>", between="\n")
HERMES_ON_ONE_LINE: Final = Region(open="<tool_call>", body=JsonCalls(), close="</tool_call>", between="\n")
TOOL_CALLS: Final = Region(open="<tool_calls>", body=LIST, close="</tool_calls>")
_DEEPSEEK_SECTION: Final = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
DEEPSEEK_FENCED: Final = Region(
    open="<｜tool▁call▁begin｜>",
    body=NamedJson(("function<｜tool▁sep｜>{name}\n```json\n", "{name}\n```json\n")),
    close="\n```<｜tool▁call▁end｜>",
    section=_DEEPSEEK_SECTION,
    between="\n",
)
DEEPSEEK_PLAIN: Final = Region(
    open="<｜tool▁call▁begin｜>",
    body=NamedJson(("{name}<｜tool▁sep｜>", "function<｜tool▁sep｜>{name}\n")),
    close="<｜tool▁call▁end｜>",
    section=_DEEPSEEK_SECTION,
)
KIMI: Final = Region(
    open="<|tool_call_begin|>",
    body=NamedJson(
        tuple(
            f"{name}<|tool_call_argument_begin|>"
            for name in ("functions.{name}:{index}", "{name}:{index}", "functions.{name}", "{name}")
        )
    ),
    close="<|tool_call_end|>",
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
)
MISTRAL_LIST: Final = Region(open="[TOOL_CALLS]", body=LIST)


def _mistral(*headers: str) -> tuple[Region, ...]:
    return (Region(open="[TOOL_CALLS]", body=NamedJson((*headers, "{name}"))), MISTRAL_LIST)


MISTRAL: Final = _mistral("{name}[ARGS]", "{name}[CALL_ID]{id}[ARGS]")
MISTRAL_IDS: Final = _mistral("{name}[CALL_ID]{id}[ARGS]", "{name}[ARGS]")
_COHERE_ITEM: Final = '{"tool_call_id": "{index}", "tool_name": "{name}", "parameters": {arguments}}'
COHERE: Final = Region(
    open="<|START_ACTION|>",
    body=JsonCalls(_COHERE_ITEM, is_list=True, between=",\n    "),
    close="<|END_ACTION|>",
)
COHERE_LIST: Final = JsonCalls('{"tool_name": "{name}", "parameters": {arguments}}', is_list=True, between=",\n")
GRANITE: Final = (Region(open="<|tool_call|>", body=LIST), Region(open="<tool_call>", body=LIST))
PHI: Final = Region(open="<|tool_call|>", body=LIST, close="<|/tool_call|>")
FUNCTOOLS: Final = Region(open="functools", body=LIST)
BARE_LIST: Final = Region(open="", body=LIST)
FUNCTION_JSON: Final = Region(open="<function=", body=NamedJson(("{name}>",)), close="</function>", between="\n")
GIGACHAT_OLD: Final = Region(open="function call<|role_sep|>\n", body=JsonCalls(), wrap=("<|message_sep|>\n\n", ""))
GIGACHAT: Final = Region(open="<|function_call|>", body=JsonCalls())
SOLAR: Final = Region(
    open="<|tool_call:begin|>",
    body=NamedJson(("{id}<|tool_call:name|>{name}<|tool_call:args|>", "<|tool_call:name|>{name}<|tool_call:args|>")),
    close="<|tool_call:end|>",
    section=("<|tool_calls|>", ""),
)
COHERE_ACTIONS: Final = tuple(
    Region(open=f"Action:{gap}```json\n", body=COHERE_LIST, close="\n```") for gap in (" ", "\n", "")
)
APERTUS: Final = Region(
    open="<|tools_prefix|>",
    body=JsonCalls('{"{name}": {arguments}}', is_list=True, between=", "),
    close="<|tools_suffix|>",
)
INTERNLM: Final = Region(open="<|action_start|><|plugin|>\n", body=JsonCalls(PARAMETERS), close="<|action_end|>")
LINES_OF_JSON: Final = JsonCalls(between="\n")
LLAMA_JSON: Final = (
    Region(open="", body=JsonCalls(PARAMETERS, between="; ")),
    Region(open="<|python_tag|>", body=JsonCalls(PARAMETERS, between="; ")),
    FUNCTION_JSON,
)
XLAM: Final = (
    BARE_LIST,
    Region(open="```json\n", body=LIST, close="\n```"),
    Region(open="```\n", body=LIST, close="\n```"),
    Region(open="<tool_call>", body=LIST, close="</tool_call>"),
    Region(open="[TOOL_CALLS]", body=LIST),
)

BARE_PYTHON: Final = Region(open="", body=PythonCalls())
LLAMA4: Final = (
    Region(open="<|python_start|>", body=PythonCalls(), close="<|python_end|>"),
    Region(open="<|python_start|>", body=JsonCalls(PARAMETERS), close="<|python_end|>"),
    BARE_PYTHON,
)
LLAMA_PYTHONIC: Final = (BARE_PYTHON, Region(open="<|python_tag|>", body=PythonCalls()))
GEMMA_PYTHONIC: Final = (
    BARE_PYTHON,
    Region(open="```tool_code\n", body=PythonCalls(), close="\n```"),
    Region(open="```tool_code\n", body=PythonCalls(is_list=False, between="\n"), close="\n```"),
)
LFM: Final = (
    Region(open="<|tool_call_start|>", body=PythonCalls(), close="<|tool_call_end|>"),
    Region(open="<|tool_call_start|>", body=LIST, close="<|tool_call_end|>"),
)
OLMO: Final = Region(open="<function_calls>", body=PythonCalls(is_list=False, between="\n"), close="</function_calls>")
FUNCTION_GEMMA: Final = Region(
    open="<start_function_call>", body=DictCalls("call:{name}", "<escape>"), close="<end_function_call>"
)
GEMMA4: Final = Region(open="<|tool_call>", body=DictCalls("call:{name}", '<|"|>'), close="<tool_call|>")
