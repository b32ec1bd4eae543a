"""What bounds the work of one model, and the memory that it takes."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from app.settings.fields import Fields
from app.settings.knobs import Knob
from app.settings.types import (
    Count,
    CountOrZero,
    KvBits,
    KvGroupSize,
    KvStart,
    NumBytes,
    NumBytesOrZero,
    Seconds,
    SecondsOrNone,
    SecondsOrZero,
)


class ModelLimits(Fields):
    """The limits of one served model."""

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
        SecondsOrNone,
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
        Knob("Limits", "Most prompt tokens read between two steps of the running requests.", "TOKENS"),
    ] = 2048
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
