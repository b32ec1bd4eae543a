"""The handler of vision-language models: a language model's, and pictures, films and recordings in its prompts."""

from pathlib import Path
from typing import Any

from loguru import logger
from mlx import nn
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_config, load_tokenizer
from mlx_vlm.models.base import load_chat_template
from mlx_vlm.utils import load_model
from msgspec.structs import replace

from app.core.frames import CacheStats, ModelInfo
from app.handler.lm.handler import LMHandler
from app.handler.lm.sight import Blindness
from app.handler.media import ImageLimits
from app.handler.vlm.desk import MediaDesk
from app.handler.vlm.language import LanguageSide
from app.handler.vlm.opening import Opening
from app.handler.vlm.pictures import PictureLimits, model_size
from app.handler.vlm.processor import CannotSeeError, MediaProcessor, load_media_processor
from app.handler.vlm.tower import Tower


class VLMHandler(LMHandler):
    """Chat with media: text alone runs as on a language model, in the same batch.

    `desk` is None where the model sees and hears nothing.
    """

    _language: LanguageSide
    tower: Tower
    desk: MediaDesk | None = None

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        info = super().load()
        self.tower = Tower(self._language)
        try:
            self.desk = self._open_desk()
        # The libraries raise whatever a processor leads to; there is no narrower common class.
        except Exception as error:
            logger.opt(exception=error).warning("the model will see no images: {}", error)
            self._prompts.see_with(Blindness(f"this model can be shown text only here ({error}); leave it out"))
        else:
            self._prompts.see_with(self.desk)
        return replace(info, kind="vlm", senses=self.desk.kinds if self.desk is not None else ())

    def inspect(self) -> CacheStats:
        """See `Handler.inspect`."""
        media = self.tower.recent
        return replace(
            super().inspect(),
            media_lookups=media.num_lookups,
            media_hits=media.num_hits,
            num_media=len(media),
            media_bytes=media.num_bytes,
            media_max_bytes=media.max_bytes,
        )

    def clear_caches(self) -> None:
        """See `Handler.clear_caches`."""
        super().clear_caches()
        self.tower.recent.clear()
        if self.desk is not None:
            self.desk.forget()

    def _open_desk(self) -> MediaDesk:
        model_type = str(self._language.whole.config.model_type)
        own = load_media_processor(self.folder, model_type, trusts_code=self.spec.trust_remote_code)
        processor = MediaProcessor(own)
        senses, why_not = Opening(processor, self.tower, self._prompts.template, self._prompts.encode).senses()
        if not senses:
            raise CannotSeeError(why_not["image"])
        missing = "".join(f"; no sense of its own for {kind}: {why}" for kind, why in why_not.items())
        taken = ", ".join(senses)
        logger.log("INFO" if "image" in senses else "WARNING", "beside text the model takes {}{}", taken, missing)
        size = model_size(getattr(own, "image_processor", None))
        limits = PictureLimits(ImageLimits(self.spec.max_input_pixels), size, self.spec.disable_auto_resize)
        return MediaDesk(processor, limits, self.tower, senses, why_not)

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
