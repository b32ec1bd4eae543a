"""What a model takes beside text, found out when it is loaded: it is shown a first medium of each kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np
from loguru import logger
from PIL import Image

from app.core.conversation import MediaKind
from app.handler.film import Film
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.vlm.desk import Sense
from app.handler.vlm.marking import find_marking
from app.handler.vlm.processor import CannotSeeError, Content, MediaProcessor, Shown
from app.handler.vlm.prompt_media import Placed, SeenMedia
from app.handler.vlm.tower import Tower

_KINDS: Final[tuple[MediaKind, ...]] = ("image", "video", "audio")
# What is looked at first.
_SIZE, _COLOUR = (96, 64), (200, 100, 50)
_NUM_FRAMES = 4
_SECONDS, _PITCH_HZ = 0.5, 440


@dataclass(frozen=True, slots=True)
class Opening:
    """The parts of a model that a sense is made of. Owned by the worker's main thread."""

    processor: MediaProcessor
    tower: Tower
    template: ChatTemplate
    # As the prompt's text is encoded.
    encode: Callable[[str], list[int]]

    def senses(self) -> tuple[dict[MediaKind, Sense], dict[MediaKind, str]]:
        """A sense for each kind of media that the model takes, and why it takes none of the others."""
        senses: dict[MediaKind, Sense] = {}
        why_not: dict[MediaKind, str] = {}
        for kind in _KINDS:
            try:
                senses[kind] = self._opened(kind)
            # The libraries raise whatever a processor or a tower leads to; there is no narrower common class.
            except Exception as error:
                logger.opt(exception=error).debug("no sense for {}", kind)
                why_not[kind] = str(error) or type(error).__name__
        self.tower.begin()
        mx.clear_cache()
        return senses, why_not

    def _opened(self, kind: MediaKind) -> Sense:
        config = self.tower.whole.config
        names = (f"{kind}_token_id", f"{kind}_token_index")
        placeholder = next((token for name in names if isinstance(token := getattr(config, name, None), int)), None)
        if placeholder is None:
            raise CannotSeeError(f"its config.json names no {kind} token")
        marking = find_marking(self.template, kind, self.processor.markers(kind, placeholder))
        shown = self.processor.show(kind, self._first(kind), marking.marker, placeholder)
        if self.encode(shown.text) != shown.tokens:
            raise CannotSeeError("what stands for it cannot be written as text")
        self.tower.try_out(shown)
        self._run(shown)
        return Sense(placeholder, marking)

    def _first(self, kind: MediaKind) -> Content:
        match kind:
            case "image":
                return Image.new("RGB", _SIZE, _COLOUR)
            case "video":
                frame = np.asarray(Image.new("RGB", _SIZE, _COLOUR)).transpose(2, 0, 1)
                return Film(np.stack([frame] * _NUM_FRAMES), [*range(_NUM_FRAMES)], _NUM_FRAMES, fps=2.0)
            case "audio":
                rate = self.processor.sample_rate
                times = np.arange(int(_SECONDS * rate)) / rate
                return np.sin(2 * np.pi * _PITCH_HZ * times).astype(np.float32)

    def _run(self, shown: Shown) -> None:
        """Run a prompt that is only one medium; it also compiles what later ones run."""
        prompt = SeenMedia(self.tower, [Placed(shown, shown.start)])
        while prompt.look_on(shown.tokens, 0):
            pass
        mx.eval(prompt.forward(0)(mx.array([shown.tokens]), cache=self.tower.language.make_cache()))
