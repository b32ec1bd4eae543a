import pytest

from app.text.detection import detect_family, family_of_option
from app.text.families import FAMILIES

# What the templates of each family say about calls and reasoning, in short.
HERMES = '{% if tools %}For each call: <tool_call>\\n{"name": <function-name>, "arguments": <args>}\\n</tool_call>'
CODER = "{% if tools %}<tool_call>\\n<function=example>\\n<parameter=one>\\nvalue\\n</parameter>\\n</function>"
KEYS = "{% if tools %}<tool_call>{function-name}\\n<arg_key>{arg-key-1}</arg_key>\\n<arg_value>"
THINK = "{% set reasoning = content.split('</think>')[0] %}"
FIELD = "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
DEEPSEEK = "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool.name"
EXCERPTS = {
    "qwen2.5": HERMES,
    "qwen3": HERMES + FIELD,
    "qwq": HERMES + THINK,
    "hermes3": HERMES + ' json schema: {"title": "FunctionCall", "type": "object"}',
    "granite4": "{{ '<|start_of_role|>system<|end_of_role|>' }}" + HERMES,
    "smollm3": '{{- "Reasoning Mode: " + mode -}}{%- if "/no_think" in system -%}',
    "mimo-vl": "{{ 'You are MiMo, an AI assistant.' }}" + HERMES,
    "ernie4.5-thinking": HERMES + FIELD + "<tool_output>\\n",
    "bielik": HERMES + "{{- '<|function_output|>' + message['content'] }}" + FIELD,
    "qwen3-coder": CODER,
    "qwen3.5": CODER + FIELD,
    "nemotron3-nano": CODER + "{{ '<|im_start|>assistant\\n<think></think>' }}",
    "step3.5": CODER + FIELD + "{{- '<|im_start|>tool_response\\n' }}",
    "seed-oss": "{%- set toolcall_begin_token = '<seed:tool_call>' -%}<function=a><parameter=b>",
    "glm4.5": KEYS + FIELD,
    "glm4.7": "{% if tools %}<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key>" + FIELD,
    "laguna": "{{ '<tool_call>' + name }}{{ '<arg_key>' ~ k ~ '</arg_key>' }}</assistant>" + FIELD,
    "ling3": "{{ '<role>ASSISTANT</role>' }}" + KEYS + FIELD,
    "longcat": "<longcat_tool_call>{function-name}\\n<longcat_arg_key>",
    "hunyuan-hy3": "{%- set HYTK = ':opensource' %}{{ '<arg_key{}>'.format(HYTK) }}",
    "minimax-m1": "<beginning_of_sentence>ai name=assistant\\n<tool_calls>\\n",
    "minimax-m2": "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}" + FIELD,
    "minimax-m3": "{%- set ns_token = ']<]minimax[>[' -%}{%- set begin = ns_token ~ '<tool_call>' -%}",
    "deepseek-v3.2": "{%- set dsml_token = '｜DSML｜' -%}'<' + dsml_token + 'function_calls>'",
    "deepseek-v4": "{%- set dsml_token = '｜DSML｜' -%}'<' + dsml_token + 'tool_calls>'",
    "minicpm5": '<function name="function-name"><param name="param-name">param-value</param></function>' + FIELD,
    "step3": "{{ '<｜tool_sep｜><steptml:invoke name=\"' + name }}",
    "muse-glimmer": "{{- '<atem:function_calls>\\n<atem:invoke name=\"' -}}<|start|><|message|>",
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>{{ id }}",
    "kimi-k2-thinking": "<think>{{ rc }}</think><|tool_calls_section_begin|>",
    "kimi-k3": "{{- '<|open|>' + tag -}}{{- '<|end_of_msg|>' -}}",
    "deepseek-r1": DEEPSEEK + "'```json'" + THINK,
    "deepseek-v3": DEEPSEEK + "'```json'",
    "deepseek-v3.1": DEEPSEEK + THINK,
    "mistral-v3": '{{- "[TOOL_CALLS][" }}',
    "mistral-v13": '{{- "[TOOL_CALLS]" + name + "[ARGS]" + arguments }}',
    "mistral-v11-callid": '{{- "[TOOL_CALLS]" + name + "[CALL_ID]" + id + "[ARGS]" }}',
    "ministral3-reasoning": "[THINK]Your thoughts.[/THINK]{{ '[TOOL_CALLS]' }}{{ name + '[ARGS]' }}",
    "gpt-oss": "<|start|>assistant<|channel|>commentary json<|message|>",
    "solar-open": "<|tool_call:begin|><tool-call-id><|tool_call:name|>",
    "command-r7b": "<|START_ACTION|>[{% for tc in tool_calls %}<|START_RESPONSE|>",
    "command-a2-moe": "<|START_ACTION|>[{% for tc in tool_calls %}<|START_TEXT|>",
    "command-r-plus": "<|CHATBOT_TOKEN|>{{ '\\nAction:\\n```json\\n[\\n' }}",
    "granite3": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>",
    "granite3.2-thinking": "<|start_of_role|> Write your thoughts after 'Here is my thought process:' <|tool_call|>",
    "granite3.3-thinking": "<|start_of_role|><|tool_call|> between <think></think> and <response></response>",
    "granite-20b-fc": "<|function_call_library|>{{ '<function_call> ' }}",
    "phi4-mini": "{{ message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}",
    "phi4-mini-functools": 'formatted as functools[{"name": [function name]}, ...]',
    "apertus": "{{ '<|tools_prefix|>[' }}",
    "nemotron-nano-v2": "{{ '<TOOLCALL>[' }}<think>",
    "hunyuan-a13b": '<tool_calls>[{"name": "func_name1"}]</tool_calls><|extra_0|>',
    "jamba": "<|bom|><|assistant|> <tool_calls>[",
    "apriel1.5": "<tool_calls>[{}]</tool_calls> [BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE]",
    "apriel1.6": "<tool_calls>[{}]</tool_calls> [BEGIN FINAL RESPONSE] 'Here are my reasoning steps:\\n'",
    "internlm2": '{{- "<|action_start|><|plugin|>\\n" }}',
    "gigachat3": 'function_call="<|function_call|>" <|role_sep|> function call',
    "gigachat3-10b": "'role': 'function call' <|role_sep|>",
    "llama4-pythonic": "<|header_start|> Use exact format: [func_name1(param1=value1), func_name2(...)]",
    "llama3.2-pythonic": "<|start_header_id|> Respond in the format [func_name1(params_name1=params_value1)]",
    "gemma3-pythonic": "<start_of_turn> Example Format: [func_name1(params_name1=params_value1)]",
    "lfm2": '{{- "<|tool_call_start|>[" + calls + "]<|tool_call_end|>" -}}' + FIELD,
    "olmo3": "{{ '<function_calls>' + calls + '</function_calls>' }}<think>",
    "llama3-json": 'Respond in the format {"name": function name, "parameters": dictionary of argument name}',
    "xlam": 'a single JSON array: [{"name": "tool_call_name", "arguments": {}}]',
    "functionary-v3.1": "<{start_tag}={function_name}>{parameters}{end_tag} start_tag => `<function`; <function=a>",
    "functionary-v3.2": "{{ '>>>all\\n' + message['content'] }}",
    "functiongemma": "<start_function_call>call:{{ name }}{",
    "gemma4": "{{- '<|tool_call>call:' + name + '{' -}}",
    "kimi-vl-thinking": "{{ '◁think▷' }}",
}


@pytest.mark.parametrize("family", EXCERPTS)
def test_the_family_of_a_template(family: str) -> None:
    detected = detect_family(EXCERPTS[family], frozenset(), None)
    assert detected.family == family
    assert detected.why.startswith(f"{family}, from '")
    assert detected.why.endswith("in the chat template")


def test_every_family_has_an_excerpt_but_those_without_a_sign_of_their_own() -> None:
    assert FAMILIES.keys() - EXCERPTS.keys() == {"generic", "trinity"}


def test_the_sentence_quotes_what_was_found() -> None:
    assert detect_family(CODER, frozenset(), None).why == (
        "qwen3-coder, from '<function=' and '<parameter=' in the chat template"
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "there is no chat template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "the chat template knows no tools"),
        ("{{ tools | tojson }}", "the chat template's markup of tool calls is not known"),
        ("{{ message.tool_calls }}", "the chat template's markup of tool calls is not known"),
    ],
)
def test_nothing_to_detect(template: str | None, why: str) -> None:
    detected = detect_family(template, frozenset({"<|im_end|>"}), None)
    assert (detected.family, detected.why) == (None, why)


def test_reasoning_without_tools_is_read_like_the_generic_prompts_calls() -> None:
    detected = detect_family("{{ m.content.split('</think>')[-1] }}", frozenset(), None)
    assert detected.family == "qwen3"
    assert "knows no tools" in detected.why


class TestOtherEvidence:
    PLAIN = "{{ messages }}{{ tools }}"
    TOKENS = frozenset({"<|tool_call_start|>", "<|tool_call_end|>", "<|im_end|>"})

    def test_tokens_decide_where_the_template_does_not(self) -> None:
        detected = detect_family(self.PLAIN, self.TOKENS, "glm47")
        assert detected.family == "lfm2"
        assert detected.why == "lfm2, from the tokens '<|tool_call_start|>' and '<|tool_call_end|>'"

    def test_all_of_the_tokens_must_be_there(self) -> None:
        assert detect_family(self.PLAIN, self.TOKENS - {"<|tool_call_end|>"}, None).family is None

    def test_the_template_goes_before_both(self) -> None:
        assert detect_family(HERMES, self.TOKENS, "glm47").family == "qwen2.5"

    @pytest.mark.parametrize(
        ("hint", "family"),
        [
            ("glm47", "glm4.7"),
            ("function_gemma", "functiongemma"),
            ('{"tool_calls": {"open": "<minimax:tool_call>"}}', "minimax-m2"),
            ("something else", None),
        ],
    )
    def test_a_hint_comes_last(self, hint: str, family: str | None) -> None:
        detected = detect_family(self.PLAIN, frozenset(), hint)
        assert detected.family == family
        assert family is None or detected.why == f"{family}, from the tokenizer's configuration"


class TestOptions:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_familys_own_name(self, family: str) -> None:
        assert family_of_option(family, family) == family
        assert family_of_option(family) in FAMILIES

    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("hermes", "qwen3"),
            ("qwen3", "qwen3"),
            ("qwen3_moe", "qwen3"),
            ("qwen3_coder", "qwen3-coder"),
            ("qwen3_vl", "qwen3"),
            ("glm4_moe", "glm4.5"),
            ("harmony", "gpt-oss"),
            ("openai_gptoss", "gpt-oss"),
            ("kimi_k2", "kimi-k2"),
            ("minimax_m2", "minimax-m2"),
            ("minimax-m2", "minimax-m2"),
            ("gemma4", "gemma4"),
            ("functiongemma", "functiongemma"),
            ("nemotron3_nano", "nemotron3-nano"),
            ("longcat_flash_lite", "longcat"),
            ("step_35", "step3.5"),
            ("step3p5", "step3.5"),
            ("solar_open", "solar-open"),
            ("deepseek_r1", "deepseek-r1"),
            ("deepseek-v3.1", "deepseek-v3.1"),
            ("deepseekv31", "deepseek-v3.1"),
            ("Mistral", "ministral3-reasoning"),
            ("pythonic", "llama3.2-pythonic"),
            ("llama3_json", "llama3-json"),
            ("generic", "generic"),
        ],
    )
    def test_names_of_parsers(self, name: str, family: str) -> None:
        assert family_of_option(name) == family

    def test_a_parser_of_several_families_means_the_detected_one(self) -> None:
        assert family_of_option("mistral", "mistral-v3") == "mistral-v3"
        assert family_of_option("hermes", "granite4") == "granite4"
        assert family_of_option("hermes", "gemma4") == "qwen3"

    def test_a_parser_of_reasoning_keeps_to_families_that_reason(self) -> None:
        assert family_of_option("qwen3", "qwen2.5") == "qwen3"
        assert family_of_option("qwen3", "qwq") == "qwq"

    def test_names_that_are_not_known(self) -> None:
        assert family_of_option("inkling") is None
        assert family_of_option("", "qwen3") is None
