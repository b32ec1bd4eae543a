"""The names that other servers have for their parsers, each with the families that it reads: data for `detection`.

They are those of vLLM, SGLang, mlx_lm, mlx_vlm and of this server's forerunner. The first family is meant where the
model's template does not say which.
"""

from typing import Final

# The same calls; the first of them think.
_QWEN3: Final = ("qwen3", "qwq", "smollm3", "mimo-vl", "bielik", "trinity")
_HERMES: Final = (*_QWEN3, "qwen2.5", "hermes3", "granite4")
_CODER: Final = ("qwen3.5", "qwen3-coder", "nemotron3-nano", "step3.5")
_PYTHONIC: Final = ("llama3.2-pythonic", "llama4-pythonic", "gemma3-pythonic", "olmo3", "lfm2")
_GLM: Final = ("glm4.5", "glm4.7")
_GRANITE: Final = ("granite3", "granite3.2-thinking", "granite3.3-thinking")
_MISTRAL: Final = ("ministral3-reasoning", "mistral-v13", "mistral-v11-callid", "mistral-v3")
_DEEPSEEK: Final = ("deepseek-v3", "deepseek-r1")
_HUNYUAN: Final = ("hunyuan-a13b", "hunyuan-hy3")
_MINIMAX: Final = ("minimax-m2", "minimax-m1")

PARSER_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "hermes": _HERMES,
    "json_tools": _HERMES,
    "qwen": _HERMES,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3,
    "qwen3_thinking": _QWEN3,
    "qwen3_vl": _QWEN3,
    "holo2": _QWEN3,
    "qwen3_coder": ("qwen3-coder", *_CODER),
    "qwen3_xml": ("qwen3-coder", *_CODER),
    "mimo": ("qwen3.5", *_CODER, "mimo-vl"),
    "nano_v3": ("nemotron3-nano",),
    "nemotron_3": ("nemotron3-nano",),
    "nemotron_v3": ("nemotron3-nano",),
    "step3p5": ("step3.5",),
    "glm": _GLM,
    "glm4_moe": _GLM,
    "glm45": _GLM,
    "glm47": ("glm4.7", "glm4.5"),
    "poolside_v1": ("laguna",),
    "longcat_flash": ("longcat",),
    "longcat_flash_lite": ("longcat",),
    "hunyuan": _HUNYUAN,
    "hy_v3": ("hunyuan-hy3",),
    "minimax": _MINIMAX,
    "minimax_append_think": _MINIMAX,
    "minimax_m2_append_think": ("minimax-m2",),
    "deepseek_v3": _DEEPSEEK,
    "atem": ("muse-glimmer",),
    "muse": ("muse-glimmer",),
    "muse_spark": ("muse-glimmer",),
    "kimi": ("kimi-vl-thinking",),
    "kimi_k2": ("kimi-k2", "kimi-k2-thinking"),
    "mistral": _MISTRAL,
    "gpt_oss": ("gpt-oss",),
    "harmony": ("gpt-oss",),
    "openai": ("gpt-oss",),
    "openai_gptoss": ("gpt-oss",),
    "cohere_command3": ("command-r7b",),
    "cohere_command4": ("command-a2-moe",),
    "cohere2_moe": ("command-a2-moe",),
    "granite": _GRANITE,
    "phi4_mini_json": ("phi4-mini", "phi4-mini-functools"),
    "apertus2509": ("apertus",),
    "internlm": ("internlm2",),
    "interns1": ("internlm2",),
    "gigachat3": ("gigachat3", "gigachat3-10b"),
    "pythonic": _PYTHONIC,
    "llama3": ("llama3-json",),
    "llama4_json": ("llama3-json",),
    "ernie45": ("ernie4.5-thinking",),
    "functionary": ("functionary-v3.2", "functionary-v3.1"),
    "generic": ("generic",),
}
