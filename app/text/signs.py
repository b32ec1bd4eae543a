"""How a chat template gives away its model's markup: data for `detection`."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Sign:
    """A family is meant where all of these strings are found, and none of those."""

    family: str
    all_of: tuple[str, ...]
    none_of: tuple[str, ...] = ()


# The first that fits is taken: what is most particular comes first.
SIGNS: Final = (
    # Tags of one family's own.
    Sign("muse-glimmer", ("<atem:function_calls>",)),
    Sign("kimi-k3", ("<|open|>", "<|end_of_msg|>")),
    Sign("minimax-m3", ("]<]minimax[>[",)),
    Sign("minimax-m2", ("<minimax:tool_call>",)),
    Sign("minimax-m1", ("<tool_calls>", "<beginning_of_sentence>")),
    Sign("deepseek-v4", ("\uff5cDSML\uff5c", "tool_calls>"), ("function_calls>",)),
    Sign("deepseek-v3.2", ("\uff5cDSML\uff5c",)),
    Sign("step3", ("<steptml:invoke",)),
    Sign("longcat", ("<longcat_tool_call>",)),
    Sign("seed-oss", ("<seed:tool_call>",)),
    Sign("gemma4", ("<|tool_call>",)),
    Sign("functiongemma", ("<start_function_call>",)),
    Sign("lfm2", ("<|tool_call_start|>",)),
    Sign("lfm2", ("<|tool_list_start|>",)),
    Sign("apertus", ("<|tools_prefix|>",)),
    Sign("nemotron-nano-v2", ("<TOOLCALL>",)),
    Sign("solar-open", ("<|tool_call:begin|>",)),
    Sign("gigachat3", ("<|function_call|>",)),
    Sign("gigachat3-10b", ("function call", "<|role_sep|>")),
    Sign("internlm2", ("<|action_start|>",)),
    Sign("minicpm5", ('<function name="', '<param name="')),
    Sign("granite-20b-fc", ("<|function_call_library|>",)),
    Sign("kimi-vl-thinking", ("\u25c1think\u25b7",)),
    # Keys and values.
    Sign("hunyuan-hy3", ("<arg_key", ":opensource")),
    Sign("laguna", ("<arg_key>", "</assistant>")),
    Sign("ling3", ("<arg_key>", "<role>ASSISTANT</role>")),
    Sign("glm4.7", ("<tool_call>{function-name}<arg_key>",)),
    Sign("glm4.5", ("<arg_key>",)),
    # Functions with parameters in tags, and functions with JSON in tags.
    Sign("step3.5", ("<function=", "<parameter=", "<|im_start|>tool_response")),
    Sign("nemotron3-nano", ("<function=", "<parameter=", "<think></think>")),
    Sign("qwen3.5", ("<function=", "<parameter=", "</think>")),
    Sign("qwen3-coder", ("<function=", "<parameter=")),
    Sign("functionary-v3.1", ("<function=", "<{start_tag}=")),
    Sign("functionary-v3.2", (">>>all",)),
    # Lists and objects of JSON behind a marker.
    Sign("command-a2-moe", ("<|START_ACTION|>", "<|START_TEXT|>")),
    Sign("command-r7b", ("<|START_ACTION|>",)),
    Sign("command-r-plus", ("<|CHATBOT_TOKEN|>", "Action:")),
    Sign("kimi-k2-thinking", ("<|tool_calls_section_begin|>", "<think>")),
    Sign("kimi-k2", ("<|tool_calls_section_begin|>",)),
    Sign("deepseek-v3.1", ("<\uff5ctool\u2581call\u2581begin\uff5c>",), ("```json",)),
    Sign("deepseek-r1", ("<\uff5ctool\u2581call\u2581begin\uff5c>", "</think>")),
    Sign("deepseek-v3", ("<\uff5ctool\u2581call\u2581begin\uff5c>",)),
    Sign("mistral-v11-callid", ("[TOOL_CALLS]", "[CALL_ID]")),
    Sign("ministral3-reasoning", ("[TOOL_CALLS]", "[THINK]")),
    Sign("mistral-v13", ("[TOOL_CALLS]", "[ARGS]")),
    Sign("mistral-v3", ("[TOOL_CALLS]",)),
    Sign("phi4-mini-functools", ("functools[",)),
    Sign("phi4-mini", ("<|tool|>", "<|/tool|>")),
    Sign("granite3.2-thinking", ("Here is my thought process",)),
    Sign("granite3.3-thinking", ("<|tool_call|>", "<|start_of_role|>", "</response>")),
    Sign("granite3", ("<|tool_call|>", "<|start_of_role|>")),
    Sign("apriel1.6", ("[BEGIN FINAL RESPONSE]", "Here are my reasoning steps")),
    Sign("apriel1.5", ("[BEGIN FINAL RESPONSE]",)),
    Sign("hunyuan-a13b", ("<tool_calls>", "<|extra_0|>")),
    Sign("jamba", ("<tool_calls>", "<|bom|>")),
    # Messages with a channel.
    Sign("gpt-oss", ("<|channel|>", "<|message|>", "commentary")),
    # Calls in Python's syntax, and JSON, without any marker: told by how the template explains them.
    Sign("olmo3", ("<function_calls>",)),
    Sign("llama4-pythonic", ("[func_name1(", "<|header_start|>")),
    Sign("llama3.2-pythonic", ("[func_name1(", "<|start_header_id|>")),
    Sign("gemma3-pythonic", ("[func_name1(", "<start_of_turn>")),
    Sign("xlam", ('[{"name": "tool_call_name"',)),
    Sign("llama3-json", ('{"name": function name, "parameters":',)),
    # JSON between <tool_call> and </tool_call>.
    Sign("granite4", ("<tool_call>", "<|start_of_role|>")),
    Sign("bielik", ("<tool_call>", "<|function_output|>")),
    Sign("ernie4.5-thinking", ("<tool_call>", "<tool_output>")),
    Sign("hermes3", ("<tool_call>", '"title": "FunctionCall"')),
    Sign("smollm3", ("Reasoning Mode: ", "/no_think")),
    # Its template is another family's to the letter, but for the name.
    Sign("mimo-vl", ("<tool_call>", "You are MiMo")),
    Sign("qwq", ("<tool_call>", "</think>"), ("reasoning_content",)),
    Sign("qwen3", ("<tool_call>", "</think>")),
    Sign("qwen2.5", ("<tool_call>",)),
)

# Tokens that only one family has, for a template that does not spell them.
TOKEN_SIGNS: Final = (
    Sign("kimi-k3", ("<|open|>", "<|close|>", "<|end_of_msg|>")),
    Sign("lfm2", ("<|tool_call_start|>", "<|tool_call_end|>")),
    Sign("gemma4", ("<|tool_call>", "<tool_call|>")),
    Sign("gpt-oss", ("<|channel|>", "<|message|>", "<|call|>")),
    Sign("kimi-k2", ("<|tool_calls_section_begin|>",)),
    Sign("minimax-m2", ("<minimax:tool_call>",)),
    Sign("seed-oss", ("<seed:tool_call>",)),
    Sign("longcat", ("<longcat_tool_call>",)),
    Sign("apertus", ("<|tools_prefix|>",)),
    Sign("solar-open", ("<|tool_call:begin|>",)),
    Sign("functiongemma", ("<start_function_call>",)),
    Sign("phi4-mini", ("<|tool_call|>", "<|/tool_call|>")),
)
