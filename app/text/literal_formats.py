"""Ways of writing calls in Python and in gemma's notation."""

from typing import Final

from app.text.dict_calls import DictCalls
from app.text.family import Region
from app.text.json_calls import JsonCalls
from app.text.json_formats import LIST, PARAMETERS
from app.text.python_calls import PythonCalls

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
