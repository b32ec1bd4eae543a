"""The handler of image models: one picture at a time, one denoising step per turn."""

import io
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from PIL import Image

from app.core.events import ImageMade, ImagePreview, ImageProgress, ImagesFinished, ImageUsage
from app.core.failures import of_exception, to_event
from app.core.frames import ModelInfo
from app.core.requests import ImageRequest
from app.errors import ModelLoadError
from app.handler import device
from app.handler.base import Handler
from app.handler.flux.models import choose
from app.handler.flux.pipeline import Pipeline, Step
from app.handler.flux.requests import ImageDesk, PreparedImages, PromptTokens
from app.handler.flux.stepped import SteppedThread
from app.handler.media import ImageLimits


@dataclass(slots=True)
class _Job:
    """A request from its arrival to its last picture."""

    id: int
    asked: PreparedImages
    num_made: int = 0
    num_previews: int = 0


class FluxHandler(Handler[ImageRequest, PreparedImages]):
    """Pictures by one of mflux's models; requests are served in the order they came."""

    _pipeline: Pipeline
    _desk: ImageDesk

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        self._line: deque[_Job] = deque()
        self._steps: Generator[Step, None, Image.Image] | None = None
        self._freed_memory = device.FreedMemory()
        model = choose(self.spec, self.folder)
        if len(self.spec.lora_scales) not in (0, len(self.spec.lora_paths)):
            raise ModelLoadError("Give as many --lora-scales as --lora-paths, or none.")
        if self.spec.lora_paths and not model.takes_loras:
            raise ModelLoadError(f"A {model.name} takes no LoRA; leave out --lora-paths.")
        self._thread = SteppedThread("model")
        try:
            self._pipeline = Pipeline(model, self._source(), self.spec, self._thread)
        # The library raises whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelLoadError(f"'{self.spec.model_path}' cannot be loaded as a {model.name}: {reason}") from error
        tokens = PromptTokens(self._pipeline.tokenizers)
        limits = ImageLimits(self.spec.max_input_pixels)
        self._desk = ImageDesk(model, self._pipeline.num_steps, tokens, self.spec.max_image_pixels, limits)
        return ModelInfo("images", tokens.max_tokens, model.name, time.monotonic() - started, device.describe())

    def prepare(self, request: ImageRequest) -> PreparedImages:
        """See `Handler.prepare`."""
        return self._desk.prepare(request)

    def submit(self, request_id: int, prepared: PreparedImages) -> None:
        """See `Handler.submit`."""
        self._line.append(_Job(request_id, prepared))

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        if self._line and self._line[0].id == request_id:
            self._stop()
        self._line = deque(job for job in self._line if job.id != request_id)

    def turn(self) -> bool:
        """See `Handler.turn`."""
        if self._line:
            self._advance(self._line[0])
        return bool(self._line)

    def rest(self, idle_s: float) -> float | None:
        """See `Handler.rest`."""
        return self._freed_memory.give_back(idle_s)

    def close(self) -> None:
        """See `Handler.close`."""
        self._stop()
        self._pipeline.close()

    def _source(self) -> str:
        """The folder, or the name of a model on the hub: which of its files are needed is known to mflux."""
        path = Path(self.spec.model_path).expanduser()
        return str(self.folder) if path.exists() else self.spec.model_path

    def _stop(self) -> None:
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _advance(self, job: _Job) -> None:
        """One step of the picture that is being made; after the last one the picture itself."""
        if self._steps is None:
            self._steps = self._pipeline.make(job.asked.pictures[job.num_made])
        try:
            self._tell_step(job, next(self._steps))
        except StopIteration as end:
            self._steps = None
            self._tell_picture(job, end.value)
        # One picture's defect is not the model's.
        except Exception as error:
            logger.exception("image {} of request {} could not be made", job.num_made, job.id)
            self._steps = None
            self._line.popleft()
            self.emit(job.id, to_event(of_exception(error)))

    def _tell_step(self, job: _Job, step: Step) -> None:
        picture = job.asked.pictures[job.num_made]
        self.emit(job.id, ImageProgress(job.num_made, step.number, picture.num_steps))
        if step.preview is not None:
            data = _encode(step.preview, job.asked)
            self.emit(job.id, ImagePreview(job.num_made, job.num_previews, data, step.preview.size))
            job.num_previews += 1

    def _tell_picture(self, job: _Job, image: Image.Image) -> None:
        # The prompt and the sources are read once for all pictures of a request.
        usage = job.asked.usage
        own = usage if job.num_made == 0 else ImageUsage(0, 0, usage.image_tokens)
        self.emit(job.id, ImageMade(job.num_made, _encode(image, job.asked), image.size, own))
        job.num_made += 1
        job.num_previews = 0
        if job.num_made == len(job.asked.pictures):
            self._line.popleft()
            total = ImageUsage(usage.text_tokens, usage.source_tokens, usage.image_tokens * job.num_made)
            self.emit(job.id, ImagesFinished(total))


def _encode(image: Image.Image, asked: PreparedImages) -> bytes:
    """The picture as a file, with nothing in it about how it was made."""
    options: dict[str, int | bool] = {}
    if asked.file_format != "png":
        options["quality"] = 100 if asked.compression is None else asked.compression
    file = io.BytesIO()
    image.save(file, asked.file_format, **options)
    return file.getvalue()
