"""The families of models whose reasoning and calls are known, by the names of their models."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.text import literal_formats, message_formats, tag_formats
from app.text.family import Family, Reasoning, Region
from app.text.json_calls import JsonCalls

_THINK: Final = Reasoning("<think>", "</think>")
_CHATML: Final = ("<|im_end|>", "<|endoftext|>")
_LLAMA: Final = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
_DEEPSEEK_END: Final = ("<｜end▁of▁sentence｜>",)
_KIMI_NOISE: Final = ("<|tool_call_section_begin|>", "<|tool_call_section_end|>", "<|im_end|>")
_MISTRAL_THINK: Final = Reasoning("[THINK]", "[/THINK]")
_COHERE_THINK: Final = Reasoning("<|START_THINKING|>", "<|END_THINKING|>")
_COHERE_NOISE: Final = (
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    *("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
)
_APRIEL_THINK: Final = Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", is_at_start=True)
_APRIEL_NOISE: Final = ("[END FINAL RESPONSE]", "<|end|>", "</s>")
_GRANITE_THINK: Final = Reasoning(
    "Here is my thought process:",
    "Here is my response:",
    other_opens=("Here's my thought process:",),
    other_closes=("Here's my response:",),
    is_at_start=True,
)
_GRANITE_END: Final = ("<|end_of_text|>",)
_GLM_END: Final = ("<|user|>", "<|observation|>", "<|endoftext|>")
_GEMMA_END: Final = ("<end_of_turn>", "<start_function_response>", "<eos>")
_GEMMA4_END: Final = ("<turn|>", "<|tool_response>", "<eos>")
_KIMI_K3_NOISE: Final = (
    *("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    *("<|close|>message<|sep|>", "<|end_of_msg|>"),
)
_SOLAR_NOISE: Final = ("<|begin|>assistant", "<|content|>", "<|end|>", "<|calls|>", "<|flush|>")
_HARMONY_NOISE: Final = ("<|end|>", "<|call|>", "<|return|>")
_MUSE_NOISE: Final = ("<|eom|>", "<|eot|>", "<atem:function_calls>", "</atem:function_calls>")


def _hermes(
    name: str, *noise: str, reasoning: Reasoning | None = _THINK, region: Region = literal_formats.HERMES
) -> Family:
    return Family(name=name, regions=(region,), reasoning=reasoning, noise=noise or _CHATML)


def _functions(name: str, region: Region, *noise: str, reasoning: Reasoning = _THINK) -> Family:
    return Family(name=name, regions=(region, literal_formats.HERMES), reasoning=reasoning, noise=noise or _CHATML)


_ALL: Final = (
    _hermes("generic", reasoning=None),
    _hermes("qwen2.5"),
    _hermes("qwen3"),
    _hermes("qwq"),
    _hermes("hermes3"),
    _hermes("granite4", *_GRANITE_END),
    _hermes("smollm3", region=literal_formats.HERMES_ON_ONE_LINE),
    _hermes("mimo-vl"),
    _hermes("ernie4.5-thinking", "<response>", "</response>", "</s>"),
    _hermes("bielik"),
    _hermes("trinity"),
    _functions("qwen3-coder", tag_formats.FUNCTION_LINES),
    _functions("qwen3.5", tag_formats.FUNCTION_LINES),
    _functions("nemotron3-nano", tag_formats.FUNCTION_LINES),
    _functions("step3.5", tag_formats.FUNCTION_LINES),
    _functions("seed-oss", tag_formats.SEED, "<seed:eos>", reasoning=Reasoning("<seed:think>", "</seed:think>")),
    Family(name="glm4.5", regions=tag_formats.GLM, reasoning=_THINK, noise=_GLM_END),
    Family(name="glm4.7", regions=tag_formats.GLM_COMPACT, reasoning=_THINK, noise=_GLM_END),
    Family(name="laguna", regions=tag_formats.GLM_COMPACT, reasoning=_THINK, noise=("</assistant>",)),
    Family(name="ling3", regions=tag_formats.GLM, reasoning=_THINK, noise=("<|role_end|>",)),
    Family(
        name="longcat",
        regions=tag_formats.LONGCAT,
        reasoning=Reasoning("<longcat_think>", "</longcat_think>"),
        noise=("</longcat_s>",),
    ),
    Family(
        name="hunyuan-hy3",
        regions=(tag_formats.HUNYUAN,),
        reasoning=Reasoning("<think:opensource>", "</think:opensource>"),
        noise=("<｜hy_eos:opensource｜>",),
    ),
    Family(name="minimax-m2", regions=(tag_formats.MINIMAX_M2,), reasoning=_THINK, noise=("[e~[",)),
    Family(
        name="minimax-m3",
        regions=(tag_formats.MINIMAX_M3,),
        reasoning=Reasoning("<mm:think>", "</mm:think>"),
        noise=("[e~[",),
    ),
    Family(
        name="minimax-m1",
        regions=(Region(open="<tool_calls>\n", body=literal_formats.LINES_OF_JSON, close="\n</tool_calls>"),),
        reasoning=_THINK,
        noise=("<end_of_sentence>",),
    ),
    Family(
        name="deepseek-v3.2",
        regions=(tag_formats.DEEPSEEK_V32,),
        reasoning=_THINK,
        noise=(*tag_formats.DSML_NOISE, *_DEEPSEEK_END),
    ),
    Family(
        name="deepseek-v4",
        regions=(tag_formats.DEEPSEEK_V4,),
        reasoning=_THINK,
        noise=(*tag_formats.DSML_NOISE, *_DEEPSEEK_END),
    ),
    Family(name="minicpm5", regions=(tag_formats.MINICPM,), reasoning=_THINK, noise=(*_CHATML, "<tool_sep>")),
    Family(name="step3", regions=(tag_formats.STEP3,), reasoning=_THINK),
    Family(
        name="muse-glimmer",
        regions=(tag_formats.MUSE_CALL,),
        reasoning=Reasoning(" to=self<|message|>", "<|eom|>"),
        frame=message_formats.MUSE,
        noise=_MUSE_NOISE,
    ),
    Family(name="kimi-k2", regions=(literal_formats.KIMI,), reasoning=_THINK, noise=_KIMI_NOISE),
    Family(name="kimi-k2-thinking", regions=(literal_formats.KIMI,), reasoning=_THINK, noise=_KIMI_NOISE),
    Family(
        name="kimi-k3",
        regions=tag_formats.KIMI_K3,
        reasoning=Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        noise=_KIMI_K3_NOISE,
    ),
    _hermes("kimi-vl-thinking", "<|im_end|>", reasoning=Reasoning("◁think▷", "◁/think▷")),
    Family(
        name="deepseek-r1",
        regions=(literal_formats.DEEPSEEK_FENCED, literal_formats.DEEPSEEK_PLAIN),
        reasoning=_THINK,
        noise=_DEEPSEEK_END,
    ),
    Family(
        name="deepseek-v3",
        regions=(literal_formats.DEEPSEEK_FENCED, literal_formats.DEEPSEEK_PLAIN),
        reasoning=_THINK,
        noise=_DEEPSEEK_END,
    ),
    Family(
        name="deepseek-v3.1",
        regions=(literal_formats.DEEPSEEK_PLAIN, literal_formats.DEEPSEEK_FENCED),
        reasoning=_THINK,
        noise=_DEEPSEEK_END,
    ),
    Family(
        name="mistral-v3",
        regions=(literal_formats.MISTRAL_LIST, literal_formats.MISTRAL[0]),
        reasoning=_MISTRAL_THINK,
        noise=("</s>",),
    ),
    Family(name="mistral-v13", regions=literal_formats.MISTRAL, reasoning=_MISTRAL_THINK, noise=("</s>",)),
    Family(name="mistral-v11-callid", regions=literal_formats.MISTRAL_IDS, reasoning=_MISTRAL_THINK, noise=("</s>",)),
    Family(name="ministral3-reasoning", regions=literal_formats.MISTRAL, reasoning=_MISTRAL_THINK, noise=("</s>",)),
    Family(
        name="gpt-oss",
        regions=(message_formats.HARMONY_CALL,),
        reasoning=Reasoning("<|channel|>analysis<|message|>", "<|end|>"),
        frame=message_formats.HARMONY,
        noise=_HARMONY_NOISE,
    ),
    Family(
        name="solar-open",
        regions=(literal_formats.SOLAR,),
        reasoning=Reasoning("<|think|>", "<|end|>"),
        noise=_SOLAR_NOISE,
    ),
    Family(name="command-r7b", regions=(literal_formats.COHERE,), reasoning=_COHERE_THINK, noise=_COHERE_NOISE),
    Family(name="command-a2-moe", regions=(literal_formats.COHERE,), reasoning=_COHERE_THINK, noise=_COHERE_NOISE),
    Family(name="command-r-plus", regions=literal_formats.COHERE_ACTIONS, noise=("<|END_OF_TURN_TOKEN|>",)),
    Family(name="granite3", regions=literal_formats.GRANITE, noise=_GRANITE_END),
    Family(
        name="granite3.3-thinking",
        regions=literal_formats.GRANITE,
        reasoning=_THINK,
        noise=("<response>", "</response>", *_GRANITE_END),
    ),
    Family(name="granite3.2-thinking", regions=literal_formats.GRANITE, reasoning=_GRANITE_THINK, noise=_GRANITE_END),
    Family(
        name="granite-20b-fc", regions=(Region(open="<function_call> ", body=JsonCalls()),), noise=("<|endoftext|>",)
    ),
    Family(name="phi4-mini", regions=(literal_formats.PHI, literal_formats.FUNCTOOLS), noise=("<|end|>",)),
    Family(name="phi4-mini-functools", regions=(literal_formats.FUNCTOOLS, literal_formats.PHI), noise=("<|end|>",)),
    Family(
        name="apertus",
        regions=(literal_formats.APERTUS,),
        reasoning=Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
        noise=("<|assistant_end|>",),
    ),
    Family(
        name="nemotron-nano-v2",
        regions=(Region(open="<TOOLCALL>", body=literal_formats.LIST, close="</TOOLCALL>"),),
        reasoning=_THINK,
        noise=("<SPECIAL_12>",),
    ),
    Family(
        name="hunyuan-a13b",
        regions=(literal_formats.TOOL_CALLS,),
        reasoning=_THINK,
        noise=("<answer>", "</answer>", "助手：", "<|eos|>"),
    ),
    Family(name="jamba", regions=(literal_formats.TOOL_CALLS,), noise=("<|eom|>", "<|endoftext|>")),
    Family(name="apriel1.5", regions=(literal_formats.TOOL_CALLS,), reasoning=_APRIEL_THINK, noise=_APRIEL_NOISE),
    Family(name="apriel1.6", regions=(literal_formats.TOOL_CALLS,), reasoning=_APRIEL_THINK, noise=_APRIEL_NOISE),
    Family(name="internlm2", regions=(literal_formats.INTERNLM,), noise=_CHATML),
    Family(
        name="gigachat3",
        regions=(literal_formats.GIGACHAT, literal_formats.GIGACHAT_OLD),
        noise=("<|message_sep|>", "</s>"),
    ),
    Family(name="gigachat3-10b", regions=(literal_formats.GIGACHAT_OLD, literal_formats.GIGACHAT), noise=("</s>",)),
    Family(name="llama4-pythonic", regions=literal_formats.LLAMA4, noise=("<|eot|>", "<|eom|>")),
    Family(name="llama3.2-pythonic", regions=literal_formats.LLAMA_PYTHONIC, noise=_LLAMA),
    Family(name="gemma3-pythonic", regions=literal_formats.GEMMA_PYTHONIC, noise=_GEMMA_END),
    Family(name="lfm2", regions=literal_formats.LFM, reasoning=_THINK, noise=_CHATML),
    Family(name="olmo3", regions=(literal_formats.OLMO,), reasoning=_THINK, noise=_CHATML),
    Family(name="llama3-json", regions=literal_formats.LLAMA_JSON, noise=_LLAMA),
    Family(name="xlam", regions=literal_formats.XLAM, reasoning=_THINK, noise=(*_CHATML, *_LLAMA)),
    Family(name="functionary-v3.1", regions=(literal_formats.FUNCTION_JSON,), noise=_LLAMA),
    Family(
        name="functionary-v3.2",
        regions=(message_formats.FUNCTIONARY_CALL,),
        frame=message_formats.FUNCTIONARY,
        noise=_LLAMA,
    ),
    Family(name="functiongemma", regions=(literal_formats.FUNCTION_GEMMA,), noise=_GEMMA_END),
    Family(
        name="gemma4",
        regions=(literal_formats.GEMMA4,),
        reasoning=Reasoning("<|channel>thought\n", "<channel|>"),
        noise=_GEMMA4_END,
    ),
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({family.name: family for family in _ALL})


def find_family(name: str) -> Family | None:
    """The family of this name."""
    return FAMILIES.get(name)
