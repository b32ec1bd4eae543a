"""The settings of one served model."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from app.settings.knobs import Knob, knobs_of
from app.settings.model_limits import ModelLimits
from app.settings.sampling import SamplingDefaults
from app.settings.types import (
    ConfigName,
    LoraScale,
    ModelPath,
    ModelType,
    ReasoningMode,
    SecondsOrNone,
    Text,
    WeightBits,
    comma_lists,
    existing_file,
)

SAMPLE_MODEL = "smollm2-135m-instruct"
# Fields that mean one model and make no sense for every model that is found in a folder.
OF_ONE_MODEL = frozenset(
    {
        *("model_path", "model_type", "served_model_name", "config_name", "chat_template_file"),
        *("adapter_path", "adapters", "draft_model_path", "lora_paths", "lora_scales"),
        *("tool_call_parser", "reasoning_parser"),
    }
)


class ModelSpec(ModelLimits, SamplingDefaults):
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
        SecondsOrNone,
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
    adapters: Annotated[
        dict[Text, Path],
        Knob(
            "Models",
            "LoRA adapter that is served beside this language model, under a name of its own; several may be given.",
            "NAME=PATH",
            ("adapters", "adapter", "lora_modules"),
            default="none",
            example="support=adapters/support",
        ),
    ] = Field(default_factory=dict[str, Path])
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

    @property
    def name(self) -> str:
        """The id that clients use."""
        return self.served_model_name or self.model_path

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id that clients may use for it: its own, and its adapters'."""
        return (self.name, *self.adapters)

    @model_validator(mode="after")
    def _takes_adapters(self) -> Self:
        if not self.adapters:
            return self
        first = next(iter(self.adapters))
        if self.adapter_path is not None:
            raise ValueError(
                f"a model with an adapter_path is served with that one only: leave out adapter_path, or the adapter"
                f" {first!r} and any others beside it"
            )
        if self.model_type not in (None, "lm"):
            raise ValueError(f"a model of type {self.model_type} takes no adapters: leave out the adapter {first!r}")
        return self


MODEL_KNOBS = knobs_of(ModelSpec)
