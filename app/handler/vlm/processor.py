"""One picture at a time through the model's own processor: its tokens, and what the vision tower takes.

Runs in the prepare thread. The processors of mlx_vlm give MLX arrays; they are turned into NumPy's at once.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_vlm.utils import load_image_processor, load_processor, process_inputs_with_fallback
from PIL import Image

# What a processor gives about the text.
_TEXT_INPUTS = ("input_ids", "attention_mask")
# The prefix cache's files have 31 bits for a token; no vocabulary reaches so far.
_FIRST_KEY, _LAST_KEY = 1 << 24, (1 << 31) - 1

# The families whose processors run a folder's Python code without being asked to, in mlx_vlm 0.7.10.
TRUSTING: Final = frozenset(
    {"inkling", "internvl", "internvl_chat", "minicpmo", "minicpmv4_6", "minicpmv4_7", "moondream2"}
)


class CannotSeeError(Exception):
    """The model cannot be shown pictures; the message says why not."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What a model is shown of a picture.

    `text` is what stands for it in a prompt, `tokens` the same in ids; those from `start` to `stop` begin and end with
    a placeholder. `inputs` are the vision tower's, `key` tells the picture from all others.
    """

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
        """Numbers for the tokens of its span that no other picture has in their place, and no vocabulary."""
        count = self.stop - self.start
        drawn = np.frombuffer(hashlib.shake_256(self.key).digest(4 * count), np.uint32)
        return (drawn.astype(np.int64) % (_LAST_KEY - _FIRST_KEY) + _FIRST_KEY).tolist()


def load_picture_processor(folder: Path, model_type: str, *, trusts_code: bool) -> Any:
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


class PictureProcessor:
    """A model's processor, shown one picture in one `marker`: the text that a chat template writes for a picture.

    Owned by the prepare thread once the model is loaded.
    """

    def __init__(self, processor: Any, placeholder: int) -> None:
        self._processor = processor
        self._placeholder = placeholder

    @property
    def placeholder(self) -> int:
        """The token in whose place a piece of a picture goes."""
        return self._placeholder

    def markers(self) -> list[str]:
        """What a template may write for a picture, by the processor's own names for it."""
        names = ("boi_token", "start_image_token", "image_token")
        named = [str(value) for name in names if (value := getattr(self._processor, name, None))]
        return list(dict.fromkeys([*named, self._decode([self._placeholder])]))

    def show(self, image: Image.Image, marker: str) -> Picture:
        """Errors: ValueError, whatever it is that the processor does not like."""
        given = process_inputs_with_fallback(self._processor, prompts=[marker], images=[image], audio=None)
        tokens: list[int] = np.asarray(given["input_ids"])[0].tolist()
        places = [place for place, token in enumerate(tokens) if token == self._placeholder]
        if not places:
            raise ValueError("the processor gives a picture no tokens")
        inputs = {
            name: np.asarray(value) if isinstance(value, mx.array) else value
            for name, value in given.items()
            if name not in _TEXT_INPUTS and value is not None
        }
        return Picture(self._decode(tokens), tokens, places[0], places[-1] + 1, inputs, _digest(inputs))

    def _decode(self, tokens: list[int]) -> str:
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _digest(inputs: dict[str, Any]) -> bytes:
    """Of everything that the vision tower is given. Errors: ValueError where that is not made of numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        array = np.asarray(value)
        if array.dtype == object:
            raise ValueError(f"the processor's '{name}' is not made of numbers")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
