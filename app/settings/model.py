"""The settings of one served model."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from app.settings.knobs import Knob, knobs_of
from app.settings.types import (
    ConfigName,
    Count,
    CountOrZero,
    IdleSeconds,
    KvBits,
    KvGroupSize,
    KvStart,
    LoraScale,
    ModelPath,
    ModelType,
    NumBytes,
    NumBytesOrZero,
    Penalty,
    ReasoningMode,
    Seconds,
    SecondsOrZero,
    Seed,
    Share,
    SomeShare,
    Temperature,
    Text,
    WeightBits,
    comma_lists,
    existing_file,
)

SAMPLE_MODEL = "smollm2-135m-instruct"


def _sampling(name: str, text: str, fallback: str, example: str, metavar: str = "X") -> Knob:
    """A sampling default, which also has its name without `default_`."""
    default = f"the model's generation_config.json, else {fallback}"
    return Knob("Sampling defaults", text, metavar, (f"default_{name}", name), default, example)


class Fields(BaseModel):
    """What both settings classes have in common."""

    # Inputs are hidden in pydantic's own messages because one of them may be an API key.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        # Python's True is 1: `port: on` in YAML would be port 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must be a number or a text in quotes")
        return value


class ModelSpec(Fields):
    """Everything about one served model."""

    model_path: Annotated[
        ModelPath,
        Knob("Models", "Local folder, Hugging Face id or sample name of the model.", "PATH"),
    ] = SAMPLE_MODEL
    model_type: Annotated[
        ModelType | None,
        Knob(
            "Models",
            "lm, multimodal (or vlm), embeddings, whisper, image-generation, image-edit or tts.",
            "TYPE",
            default="detected from the model's folder",
            example="lm",
        ),
    ] = None
    served_model_name: Annotated[
        Text | None,
        Knob("Models", "Name of the model in the API.", "NAME", default="the model path", example="my-model"),
    ] = None
    warmup: Annotated[
        bool,
        Knob(
            "Models", "Run the model once before the first request.", names=("mlx_warmup",), off_flag="--no-mlx-warmup"
        ),
    ] = True
    on_demand: Annotated[
        bool, Knob("Models", "Load the model at its first request, and let it go when it is not used.")
    ] = False
    on_demand_idle_timeout: Annotated[
        IdleSeconds,
        Knob("Models", "Time after its last use when such a model is unloaded; 0 or none for never.", "SECONDS"),
    ] = 300
    trust_remote_code: Annotated[bool, Knob("Models", "Run Python code that comes with the model.")] = False
    chat_template_file: Annotated[
        Path | None,
        existing_file,
        Knob(
            "Models",
            "Jinja file used instead of the model's chat template.",
            "PATH",
            default="the model's own template",
            example="template.jinja",
        ),
    ] = None
    tool_call_parser: Annotated[
        Text | None,
        Knob(
            "Models",
            "How the model marks tool calls, by the name of a parser or a family; none for not at all.",
            "NAME",
            default="detected from the chat template",
            example="hermes",
        ),
    ] = None
    reasoning_parser: Annotated[
        Text | None,
        Knob(
            "Models",
            "How it marks its reasoning, the same way.",
            "NAME",
            default="detected from the chat template",
            example="qwen3",
        ),
    ] = None
    reasoning: Annotated[
        ReasoningMode,
        Knob("Models", "Show reasoning separate from the answer, inline in it, or strip it.", "MODE"),
    ] = "separate"
    adapter_path: Annotated[
        Path | None,
        Knob(
            "Models",
            "Folder of a LoRA adapter that mlx_lm has trained for this language model.",
            "PATH",
            default="none",
            example="adapters",
        ),
    ] = None
    draft_model_path: Annotated[
        ModelPath | None,
        Knob(
            "Models",
            "Small model with the same tokenizer that guesses ahead for a greedy request that runs alone.",
            "PATH",
            default="none",
            example="mlx-community/Qwen3-0.6B-4bit",
        ),
    ] = None
    num_draft_tokens: Annotated[
        Annotated[int, Field(ge=1, le=16)], Knob("Models", "Tokens that it guesses ahead.", "N")
    ] = 2
    config_name: Annotated[
        ConfigName | None,
        Knob(
            "Models",
            "Which image model a folder holds, where its files and its name do not say: flux-dev, qwen-image ...",
            "NAME",
            default="detected from the model's folder",
            example="flux-dev",
        ),
    ] = None
    quantize: Annotated[
        WeightBits | None,
        Knob(
            "Models",
            "Bits to which an image model's weights are rounded while it is loaded: 3, 4, 5, 6 or 8.",
            "N",
            default="as they are stored",
            example="8",
        ),
    ] = None
    lora_paths: Annotated[
        tuple[Text, ...],
        comma_lists,
        Knob(
            "Models",
            "LoRA file of an image model; several may be given.",
            "PATH",
            default="none",
            example="style.safetensors",
        ),
    ] = ()
    lora_scales: Annotated[
        tuple[LoraScale, ...],
        comma_lists,
        Knob("Models", "Strength of each LoRA, in their order.", "X", default="1 for each", example="0.8"),
    ] = ()
    context_length: Annotated[
        Count | None,
        Knob("Limits", "Longest context of the model.", "TOKENS", default="the model's own limit", example="8192"),
    ] = None
    max_concurrency: Annotated[
        Count | None,
        Knob(
            "Limits",
            "Requests that a model works on at once.",
            "N",
            names=("max_concurrency", "max_concurrent_requests"),
            default="16, for speech to text 1",
            example="16",
        ),
    ] = None
    queue_size: Annotated[
        CountOrZero,
        Knob("Limits", "Requests that may wait for a model; one more is refused (429).", "N"),
    ] = 100
    queue_timeout: Annotated[
        Seconds,
        Knob("Limits", "A request that waits longer is refused (503).", "SECONDS"),
    ] = 300
    request_timeout: Annotated[
        SecondsOrZero,
        Knob("Limits", "Longest life of a request, waiting and generating; 0 for no limit.", "SECONDS"),
    ] = 300
    worker_hang_timeout: Annotated[
        IdleSeconds,
        Knob(
            "Limits",
            "A model's process that does not get on with its work for that long is restarted; 0 or none for never.",
            "SECONDS",
        ),
    ] = 300
    max_audio_seconds: Annotated[
        Seconds,
        Knob("Limits", "Longest recording that is transcribed; a longer one is refused (400).", "SECONDS"),
    ] = 7200
    max_image_pixels: Annotated[
        Count,
        Knob("Limits", "Most pixels of an image that is made, width times height.", "N"),
    ] = 2048 * 2048
    max_input_pixels: Annotated[
        Count,
        Knob("Limits", "Most pixels of an image that a client sends; one with more is refused (400).", "N"),
    ] = 50_000_000
    disable_auto_resize: Annotated[
        bool,
        Knob("Limits", "Refuse an image that is larger than a model sees (400), instead of scaling it down."),
    ] = False
    prefill_step_size: Annotated[
        Count,
        Knob("Limits", "Prompt tokens read between two steps of the running requests.", "TOKENS"),
    ] = 512
    max_kv_bytes: Annotated[
        NumBytes | None,
        Knob(
            "Limits",
            "Memory for the KV caches of running requests; who does not fit waits.",
            "SIZE",
            default="60 % of the memory that the weights leave",
            example="8GiB",
        ),
    ] = None
    max_kv_size: Annotated[
        Annotated[int, Field(ge=16, le=2**31 - 1)] | None,
        Knob(
            "Limits",
            "Tokens that a token looks back on, the first 4 and the latest; the KV cache of a request grows no larger.",
            "TOKENS",
            default="none, all of them",
            example="4096",
        ),
    ] = None
    kv_bits: Annotated[
        KvBits | None,
        Knob(
            "Limits",
            "Bits of each number in the KV caches, of running requests and of prompts kept: 8 or 6, or 4 (less exact).",
            "N",
            default="those of the weights",
            example="8",
        ),
    ] = None
    kv_group_size: Annotated[
        KvGroupSize,
        Knob(
            "Limits",
            "Numbers that share a scale there: 32, 64 or 128; it must divide the size of the model's heads.",
            "N",
        ),
    ] = 64
    quantized_kv_start: Annotated[
        KvStart | None,
        Knob(
            "Limits",
            "Token of a request with which few bits begin: only 0, for requests of any length share a batch.",
            "N",
            default="0",
            example="0",
        ),
    ] = None
    prompt_cache_bytes: Annotated[
        NumBytesOrZero | None,
        Knob(
            "Limits",
            "Memory for the caches of prompts and answers that later requests begin with; 0 for none.",
            "SIZE",
            default="15 % of the memory a model may use",
            example="4GiB",
        ),
    ] = None
    prompt_cache_size: Annotated[
        CountOrZero | None,
        Knob("Limits", "Most sequences in that cache; 0 for none.", "N", default="as many as fit", example="100"),
    ] = None
    prompt_cache_ttl: Annotated[
        SecondsOrZero,
        Knob("Limits", "Time after which an unused entry of that cache is dropped; 0 for never.", "SECONDS"),
    ] = 0
    prompt_cache_dir: Annotated[
        Path | None,
        Knob(
            "Limits",
            "Folder where that cache goes on when memory is full and over restarts; prompts can be read off its files.",
            "PATH",
            default="none, memory only",
            example="prompt-cache",
        ),
    ] = None
    prompt_cache_dir_bytes: Annotated[
        NumBytes,
        Knob("Limits", "Most bytes that a model's files take there.", "SIZE", default="8GiB", example="8GiB"),
    ] = 8 * 2**30
    default_max_tokens: Annotated[Count | None, _sampling("max_tokens", "Longest reply.", "4096", "4096", "TOKENS")] = (
        None
    )
    default_temperature: Annotated[
        Temperature | None,
        _sampling("temperature", "Randomness: 0 (always the likeliest token) to 2.", "0.7", "0.7"),
    ] = None
    default_top_p: Annotated[
        SomeShare | None,
        _sampling("top_p", "Keep the likeliest tokens up to this share of probability.", "0.95", "0.95"),
    ] = None
    default_top_k: Annotated[
        CountOrZero | None,
        _sampling("top_k", "Keep this many of the likeliest tokens; 0 for all.", "0 (off)", "40", "N"),
    ] = None
    default_min_p: Annotated[
        Share | None,
        _sampling("min_p", "Drop tokens below this share of the likeliest one's probability.", "0 (off)", "0.05"),
    ] = None
    default_repetition_penalty: Annotated[
        float | None,
        Field(gt=0, le=10),
        _sampling("repetition_penalty", "Divides the score of tokens already seen; 1 is none.", "1.0 (off)", "1.1"),
    ] = None
    default_presence_penalty: Annotated[
        Penalty | None,
        _sampling("presence_penalty", "Taken off the score of tokens already generated.", "0 (off)", "0.5"),
    ] = None
    default_frequency_penalty: Annotated[
        Penalty | None,
        _sampling("frequency_penalty", "The same, once for each time they were generated.", "0 (off)", "0.5"),
    ] = None
    default_seed: Annotated[
        Seed | None,
        _sampling("seed", "Seed that makes replies repeatable.", "none", "42", "N"),
    ] = None

    @property
    def name(self) -> str:
        """The id that clients use."""
        return self.served_model_name or self.model_path


MODEL_KNOBS = knobs_of(ModelSpec)
