"""The handler of language models."""

import json
import time
from collections.abc import Callable

import mlx.core as mx
from mlx import nn
from mlx_lm import load
from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.core.events import Event, Failed
from app.core.frames import ModelInfo
from app.core.requests import GenerationRequest
from app.errors import ModelLoadError
from app.handler import device
from app.handler.base import Handler
from app.handler.context import context_length
from app.handler.lm.defaults import generation_defaults
from app.handler.lm.detokenizer import Detokenizer, detokenizer_factory
from app.handler.lm.engine import Engine
from app.handler.lm.prompt import PreparedGeneration, PromptBuilder
from app.handler.lm.sampling import SamplingParameters


class LMHandler(Handler[GenerationRequest, PreparedGeneration]):
    """Chat and completion on one language model, every request in one batch."""

    _engine: Engine
    _prompts: PromptBuilder
    _new_detokenizer: Callable[[], Detokenizer]

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        model, tokenizer = self._load_model()
        device.prepare_weights(model)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        num_tokens = context_length(config, self.spec.context_length)
        self._prompts = PromptBuilder(tokenizer, num_tokens, generation_defaults(self.spec, self.folder))
        self._new_detokenizer = detokenizer_factory(tokenizer._tokenizer)  # pyright: ignore[reportPrivateUsage]
        self._engine = Engine(model, frozenset(tokenizer.eos_token_ids), self.spec.prefill_step_size, self.emit)
        if self.spec.warmup:
            self._warm_up(model, frozenset(tokenizer.eos_token_ids))
        architecture = str(config.get("model_type", "unknown"))
        return ModelInfo("lm", num_tokens, architecture, time.monotonic() - started, device.describe())

    def prepare(self, request: GenerationRequest) -> PreparedGeneration:
        """See `Handler.prepare`."""
        return self._prompts.prepare(request)

    def submit(self, request_id: int, prepared: PreparedGeneration) -> None:
        """See `Handler.submit`."""
        self._engine.add(request_id, prepared, self._new_detokenizer())

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        self._engine.cancel(request_id)

    def turn(self) -> bool:
        """See `Handler.turn`."""
        return self._engine.turn()

    def _load_model(self) -> tuple[nn.Module, TokenizerWrapper]:
        options: dict[str, object] = {"trust_remote_code": self.spec.trust_remote_code}
        try:
            model, tokenizer = load(
                str(self.folder), tokenizer_config=options, trust_remote_code=self.spec.trust_remote_code
            )[:2]
            if self.spec.chat_template_file is not None:
                tokenizer.chat_template = self.spec.chat_template_file.read_text(encoding="utf-8")
                tokenizer.has_chat_template = True
                # The renderer that mlx_lm itself has for some models would go first.
                tokenizer._chat_template = None  # pyright: ignore[reportPrivateUsage]
        # The libraries raise whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            raise ModelLoadError(f"'{self.spec.model_path}' cannot be loaded: {_first_line(error)}") from error
        return model, tokenizer

    def _warm_up(self, model: nn.Module, eos_tokens: frozenset[int]) -> None:
        """Run a short row of its own, so that kernels are compiled before the first request."""
        events: list[Event] = []
        engine = Engine(model, eos_tokens, self.spec.prefill_step_size, lambda _id, event: events.append(event))
        asked = PreparedGeneration([1] * 8, 2, SamplingParameters(temperature=1.0), ())
        engine.add(0, asked, self._new_detokenizer())
        while engine.turn():
            pass
        mx.clear_cache()
        if isinstance(events[-1], Failed):
            raise ModelLoadError(f"'{self.spec.model_path}' fails on its first tokens; the log says how.")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
