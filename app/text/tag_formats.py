"""Ways of writing calls whose values stand between tags."""

from dataclasses import replace
from typing import Final

from app.text.element_calls import ElementCalls
from app.text.family import Region
from app.text.json_calls import JsonCalls, NamedJson
from app.text.literal_formats import HERMES
from app.text.tag_calls import TagCalls


def _function_tags(sign: str, *, is_on_lines: bool) -> Region:
    """`<function=name><parameter=key>value</parameter></function>`."""
    close = f"</{sign}tool_call>"
    body = TagCalls(
        header="{name}>\n",
        parameters=("<parameter={key}>",),
        value_close="</parameter>\n",
        end="</function>",
        after=(close,),
        is_on_lines=is_on_lines,
    )
    return Region(open="<function=", body=body, wrap=(f"<{sign}tool_call>\n", f"\n{close}"), between="\n")


def _pairs(sign: str = "", *, suffix: str = "", name: str = "{name}\n", gap: str = "\n") -> Region:
    """`<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`."""
    body = TagCalls(
        header=name,
        parameters=(f"<{sign}arg_key{suffix}>{{key}}</{sign}arg_key{suffix}>{gap}<{sign}arg_value{suffix}>",),
        value_close=f"</{sign}arg_value{suffix}>{gap}",
        end=f"</{sign}tool_call{suffix}>",
        after=(f"<{sign}tool_call{suffix}>", f"</{sign}tool_calls{suffix}>"),
        is_end_optional=True,
    )
    section = (f"<tool_calls{suffix}>\n", f"\n</tool_calls{suffix}>") if suffix else ("", "")
    return Region(open=f"<{sign}tool_call{suffix}>", body=body, section=section, between=gap)


def _invocations(
    sign: str,
    section: tuple[str, str],
    parameters: tuple[str, ...] = (),
    *,
    wrap: tuple[str, str] = ("", ""),
    between: str = "\n",
) -> Region:
    """`<invoke name="…"><parameter name="…">value</parameter></invoke>`."""
    opening = f'<{sign}invoke name="'
    body = TagCalls(
        header='{name}">\n',
        parameters=parameters or (f'<{sign}parameter name="{{key}}">',),
        value_close=f"</{sign}parameter>\n",
        end=f"</{sign}invoke>",
        after=tuple(text.strip() for text in (section[1], wrap[1], opening) if text),
    )
    return Region(open=opening, body=body, wrap=wrap, section=section, between=between)


FUNCTION_LINES: Final = _function_tags("", is_on_lines=True)
GLM: Final = (_pairs(), HERMES)
GLM_COMPACT: Final = (_pairs(name="{name}", gap=""), HERMES)
DSML: Final = ('<｜DSML｜parameter name="{key}" string="{kind}">', '<｜DSML｜parameter name="{key}">')
DSML_NOISE: Final = tuple(
    f"<{slash}｜DSML｜{what}>" for what in ("tool_calls", "function_calls") for slash in ("", "/")
)
_KIMI_K3_CALL: Final = '{name}" index="{index}"<|sep|>'
_KIMI_K3_SECTION: Final = ("<|open|>tools<|sep|>", "<|close|>tools<|sep|>")
KIMI_K3: Final = (
    Region(
        open='<|open|>call tool="',
        body=TagCalls(
            header=_KIMI_K3_CALL,
            parameters=(
                '<|open|>argument key="{key}" type="{kind}"<|sep|>',
                '<|open|>argument key="{key}"<|sep|>',
            ),
            value_close="<|close|>argument<|sep|>",
            end="<|close|>call<|sep|>",
            after=(_KIMI_K3_SECTION[1], '<|open|>call tool="'),
        ),
        section=_KIMI_K3_SECTION,
    ),
    Region(
        open='<|open|>call tool="',
        body=NamedJson((_KIMI_K3_CALL + '<|open|>json type="object"<|sep|>',)),
        close="<|close|>json<|sep|><|close|>call<|sep|>",
        section=_KIMI_K3_SECTION,
    ),
)
MUSE_CALL: Final = replace(
    _invocations(
        "atem:",
        ("", ""),
        wrap=(" to={name}<|message|><atem:function_calls>\n", "\n</atem:function_calls>"),
        between="<|eom|><|start|>assistant",
    ),
    sign="<atem:function_calls>",
)
_M3_SIGN: Final = "]<]minimax[>["
MINIMAX_M3: Final = Region(
    open=f'{_M3_SIGN}<invoke name="',
    body=ElementCalls('{name}">', _M3_SIGN, f"{_M3_SIGN}</invoke>"),
    section=(f"{_M3_SIGN}<tool_call>\n", f"\n{_M3_SIGN}</tool_call>"),
    between="\n",
)
MINIMAX_M2: Final = _invocations("", ("<minimax:tool_call>\n", "\n</minimax:tool_call>"))
DEEPSEEK_V32: Final = _invocations("｜DSML｜", ("<｜DSML｜function_calls>\n", "\n</｜DSML｜function_calls>"), DSML)
DEEPSEEK_V4: Final = _invocations("｜DSML｜", ("<｜DSML｜tool_calls>\n", "\n</｜DSML｜tool_calls>"), DSML)
STEP3: Final = _invocations(
    "steptml:",
    ("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
    wrap=("<｜tool_call_begin｜>function<｜tool_sep｜>", "<｜tool_call_end｜>"),
    between="",
)
MINICPM: Final = Region(
    open='<function name="',
    body=TagCalls(
        header='{name}">',
        parameters=('<param name="{key}">',),
        value_close="</param>",
        end="</function>",
        after=('<function name="',),
        has_cdata=True,
    ),
    between="\n",
)
SEED: Final = _function_tags("seed:", is_on_lines=False)
LONGCAT: Final = (
    _pairs("longcat_"),
    Region(open="<longcat_tool_call>", body=JsonCalls(), close="</longcat_tool_call>", between="\n"),
)
HUNYUAN: Final = _pairs(suffix=":opensource", name="{name}<tool_sep:opensource>\n")
