"""The handler of vision-language models: a language model's, and pictures in its prompts."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_config, load_tokenizer
from mlx_vlm.models.base import load_chat_template
from mlx_vlm.utils import load_model
from msgspec.structs import replace
from PIL import Image

from app.core.frames import ModelInfo
from app.handler.lm.handler import LMHandler
from app.handler.lm.sight import Blindness
from app.handler.media import ImageLimits
from app.handler.vlm.desk import PictureDesk
from app.handler.vlm.language import LanguageSide
from app.handler.vlm.marking import find_marking
from app.handler.vlm.pictures import PictureLimits, model_size
from app.handler.vlm.processor import CannotSeeError, Picture, PictureProcessor, load_picture_processor
from app.handler.vlm.prompt_pictures import Placed, SeenPictures
from app.handler.vlm.tower import VisionTower

# What is looked at when the model is loaded.
_FIRST_SIZE, _FIRST_COLOUR = (96, 64), (200, 100, 50)


class VLMHandler(LMHandler):
    """Chat with pictures: text alone runs as on a language model, in the same batch.

    `tower` is None where the model sees nothing.
    """

    _language: LanguageSide
    tower: VisionTower | None = None

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        info = super().load()
        try:
            self._prompts.see_with(self._open_eyes())
        # The libraries raise whatever a processor or a tower leads to; there is no narrower common class.
        except Exception as error:
            self.tower = None
            logger.opt(exception=error).warning("the model will see no images: {}", error)
            self._prompts.see_with(Blindness(f"this model can be shown text only here ({error}); leave it out"))
        return replace(info, kind="vlm")

    def clear_caches(self) -> None:
        """See `Handler.clear_caches`."""
        super().clear_caches()
        if self.tower is not None:
            self.tower.forget()

    def _open_eyes(self) -> PictureDesk:
        """Look at a first picture: what comes of it says whether the model can be shown others."""
        config = self._language.whole.config
        names = ("image_token_id", "image_token_index")
        placeholder = next((token for name in names if isinstance(token := getattr(config, name, None), int)), None)
        if placeholder is None:
            raise CannotSeeError("its config.json names no image token")
        own = load_picture_processor(self.folder, str(config.model_type), trusts_code=self.spec.trust_remote_code)
        processor = PictureProcessor(own, placeholder)
        marking = find_marking(self._prompts.template, processor.markers())
        picture = processor.show(Image.new("RGB", _FIRST_SIZE, _FIRST_COLOUR), marking.marker)
        if self._prompts.encode(picture.text) != picture.tokens:
            raise CannotSeeError("the tokens of a picture cannot be written as text")
        self.tower = VisionTower(self._language, placeholder)
        self._try_out(self.tower, picture)
        size = model_size(getattr(own, "image_processor", None))
        limits = PictureLimits(ImageLimits(self.spec.max_input_pixels), size, self.spec.disable_auto_resize)
        return PictureDesk(processor, marking, limits, self.tower)

    def _try_out(self, tower: VisionTower, picture: Picture) -> None:
        """Run a prompt that is only a picture; it also compiles what later ones run."""
        prompt = SeenPictures(tower, [Placed(picture, picture.start)])
        while prompt.look_on(picture.tokens, 0):
            pass
        mx.eval(prompt.forward(0)(mx.array([picture.tokens]), cache=self._language.make_cache()))
        tower.forget()
        mx.clear_cache()

    def _read_model(self, folder: Path) -> tuple[nn.Module, TokenizerWrapper]:
        # A draft model sees nothing.
        if folder != self.folder:
            return super()._read_model(folder)
        config: dict[str, Any] = load_config(folder)
        # mlx_vlm runs what this names without asking.
        if config.get("model_file") and not self.spec.trust_remote_code:
            raise ValueError("it comes with Python code of its own; start with --trust-remote-code to run it.")
        trust: dict[str, Any] = {"trust_remote_code": self.spec.trust_remote_code}
        self._language = LanguageSide(load_model(folder, **trust))
        ends = config.get("eos_token_id") or config.get("text_config", {}).get("eos_token_id")
        tokenizer = load_tokenizer(folder, trust, eos_token_ids=ends)
        if not tokenizer.has_chat_template:
            # In a file of its own, as older processors have it.
            load_chat_template(tokenizer, folder)
            tokenizer.has_chat_template = tokenizer.chat_template is not None
        return self._language, tokenizer
