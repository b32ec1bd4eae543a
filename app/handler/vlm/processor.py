"""One medium at a time through the model's own processor: its tokens, and what the towers take.

Runs in the prepare thread. The processors of mlx_vlm give MLX arrays; they are turned into NumPy's at once.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import mlx.core as mx
import numpy as np
from mlx_vlm.generate.video import processor_handles_video
from mlx_vlm.utils import (
    VideoMetadata,
    load_image_processor,
    load_processor,
    process_inputs_with_fallback,
    resolve_video_sampling,
)
from numpy.typing import NDArray
from PIL import Image

from app.core.conversation import MediaKind
from app.handler.film import Film, FilmSampling

# A picture, a film, or a recording's samples.
Content: TypeAlias = Image.Image | Film | NDArray[np.float32]

# What a processor gives about the text.
_TEXT_INPUTS = ("input_ids", "attention_mask")
# The prefix cache's files have 31 bits for a token; no vocabulary reaches so far.
_FIRST_KEY, _LAST_KEY = 1 << 24, (1 << 31) - 1
# The processors' own names for what a template may write for a medium.
_MARKER_NAMES: Final[dict[MediaKind, tuple[str, ...]]] = {
    "image": ("boi_token", "start_image_token", "image_token"),
    "video": ("video_token",),
    "audio": ("audio_token",),
}
# More frames than that tell a model little, and take long to look at.
_MOST_FRAMES: Final = 64
# Gemmas hear no more; others that hear at all do.
_LONGEST_S: Final = 30.0

# The families whose processors run a folder's Python code without being asked to, in mlx_vlm 0.7.10.
TRUSTING: Final = frozenset(
    {"inkling", "internvl", "internvl_chat", "minicpmo", "minicpmv4_6", "minicpmv4_7", "moondream2"}
)


class CannotSeeError(Exception):
    """The model cannot be shown media of a kind; the message says why not."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model is shown of a medium.

    `text` is what stands for it in a prompt, `tokens` the same in ids; those from `start` to `stop` begin and end with
    the `placeholder` of its kind. `inputs` are its tower's, `key` tells it from all others.
    """

    kind: MediaKind
    placeholder: int
    text: str
    tokens: list[int]
    start: int
    stop: int
    inputs: dict[str, Any] = field(repr=False)
    key: bytes

    @property
    def nbytes(self) -> int:
        """Of what takes memory."""
        return sum(getattr(value, "nbytes", 0) for value in self.inputs.values()) + 8 * len(self.tokens)

    @property
    def span(self) -> list[int]:
        """The tokens from the first placeholder to the last."""
        return self.tokens[self.start : self.stop]

    @property
    def keys(self) -> list[int]:
        """Numbers for the tokens of its span that no other medium has in their place, and no vocabulary."""
        count = self.stop - self.start
        drawn = np.frombuffer(hashlib.shake_256(self.key).digest(4 * count), np.uint32)
        return (drawn.astype(np.int64) % (_LAST_KEY - _FIRST_KEY) + _FIRST_KEY).tolist()


def load_media_processor(folder: Path, model_type: str, *, trusts_code: bool) -> Any:
    """The processor of the model in a folder. Errors: CannotSeeError, and whatever the libraries raise."""
    if model_type in TRUSTING and not trusts_code:
        raise CannotSeeError("its processor may run Python code of its own; start with --trust-remote-code to let it")
    trust: dict[str, Any] = {"trust_remote_code": trusts_code}
    processor: Any = load_processor(folder, add_detokenizer=False, **trust)
    # Of the few families that have one of their own beside it.
    image_processor: Any = load_image_processor(folder, **trust)
    if image_processor is not None:
        processor.image_processor = image_processor
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


class MediaProcessor:
    """A model's processor, shown one medium in one `marker`: the text that a chat template writes for it.

    Owned by the prepare thread once the model is loaded.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer: Any = getattr(processor, "tokenizer", processor)
        # What the tokenizer begins every text with.
        bare, whole = (list(self._tokenizer("x", add_special_tokens=adds).input_ids) for adds in (False, True))
        starts = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        self._beginning: list[int] = whole[: next(starts, 0)]

    @property
    def sampling(self) -> FilmSampling:
        """How many frames of a film the model is shown."""
        asked = resolve_video_sampling(self._processor, {})
        return FilmSampling(
            asked.fps or 2.0, asked.min_frames or 1, min(asked.max_frames or _MOST_FRAMES, _MOST_FRAMES)
        )

    @property
    def sample_rate(self) -> int:
        """Of recordings."""
        return int(getattr(getattr(self._processor, "feature_extractor", None), "sampling_rate", 16_000))

    @property
    def longest_recording_s(self) -> float:
        """What is longer would be heard in part."""
        most = getattr(self._processor, "audio_seq_length", None)
        each_ms = getattr(self._processor, "audio_ms_per_token", None)
        return min(_LONGEST_S, most * each_ms / 1000) if most and each_ms else _LONGEST_S

    def markers(self, kind: MediaKind, placeholder: int) -> list[str]:
        """What a template may write for a medium, by the processor's own names for it."""
        named = [str(value) for name in _MARKER_NAMES[kind] if (value := getattr(self._processor, name, None))]
        named.append(self._decode([placeholder]))
        ends = [getattr(self._processor, name, None) for name in ("vision_start_token", "vision_end_token")]
        if kind == "video" and all(ends):
            # A film in these is written out with its times.
            named = [f"{ends[0]}{named[0]}{ends[1]}", *named]
        return list(dict.fromkeys(named))

    def show(self, kind: MediaKind, content: Content, marker: str, placeholder: int) -> Shown:
        """Errors: ValueError, whatever it is that the processor does not like."""
        given = process_inputs_with_fallback(self._processor, prompts=[marker], **self._arguments(content))
        tokens: list[int] = np.asarray(given["input_ids"])[0].tolist()
        if self._beginning and tokens[: len(self._beginning)] == self._beginning:
            del tokens[: len(self._beginning)]
        places = [place for place, token in enumerate(tokens) if token == placeholder]
        if not places:
            raise ValueError(f"the processor gives the {kind} no tokens")
        inputs = {
            name: np.asarray(value) if isinstance(value, mx.array) else value
            for name, value in given.items()
            if name not in _TEXT_INPUTS and value is not None
        }
        # Of a few milliseconds there are tokens, but nothing that the model could hear.
        if kind == "audio" and any(isinstance(value, np.ndarray) and not value.size for value in inputs.values()):
            raise ValueError("it is too short; send a longer recording")
        # Two films may differ in their times alone.
        key = _digest(inputs | {"tokens": np.array(tokens)})
        return Shown(kind, placeholder, self._decode(tokens), tokens, places[0], places[-1] + 1, inputs, key)

    def _arguments(self, content: Content) -> dict[str, Any]:
        """As mlx_vlm's `prepare_inputs` gives them."""
        match content:
            case Image.Image():
                return {"images": [content], "audio": None}
            case Film():
                if not processor_handles_video(self._processor):
                    raise ValueError("its processor takes no films")
                times = VideoMetadata(content.num_frames, content.fps, content.places)
                fps, metadata = [times.sampled_fps], [times]
                return {"images": None, "audio": None, "videos": [content.frames], "fps": fps} | {
                    "video_metadata": metadata
                }
            case _:
                return {"images": None, "audio": [content]}

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _digest(inputs: dict[str, Any]) -> bytes:
    """Of everything that a tower is given. Errors: ValueError where that is not made of numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        array = np.asarray(value)
        if array.dtype == object:
            raise ValueError(f"the processor's '{name}' is not made of numbers")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
