"""The handler of language models."""

import json
import time
from pathlib import Path
from typing import overload

import mlx.core as mx
from loguru import logger
from mlx import nn
from mlx_lm import load
from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec.structs import replace

from app.core.events import Detokenized, Event, Failed, Tokenized
from app.core.frames import CacheStats, ModelInfo
from app.core.model_config import context_length, num_heads
from app.core.requests import DetokenizeRequest, GenerationRequest, TokenizeRequest, TokenRequest
from app.errors import ModelLoadError
from app.handler import device
from app.handler.base import Handler
from app.handler.lm.adapters import put_on
from app.handler.lm.context_cost import open_context_cost
from app.handler.lm.defaults import generation_defaults
from app.handler.lm.detokenizer import detokenizer_factory
from app.handler.lm.drafting import Drafter
from app.handler.lm.engine import Engine
from app.handler.lm.engine_model import EngineLimits, EngineModel
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from app.handler.lm.kv.cache_form import CacheForm, open_cache_form
from app.handler.lm.memory_plan import plan_memory
from app.handler.lm.mixed_pass import open_mixed_pass
from app.handler.lm.named_adapters import NamedAdapters, open_named_adapters
from app.handler.lm.prefixes.prefix_cache import PrefixCache, PrefixCacheLimits
from app.handler.lm.prefixes.upkeep import CacheUpkeep, open_prefix_cache
from app.handler.lm.prompts.prompt import PreparedGeneration, PromptBuilder
from app.handler.lm.prompts.token_lists import TokenLists
from app.handler.lm.sampling.sampling import SamplingParameters
from app.handler.lm.tail import open_tail


class LMHandler(Handler[GenerationRequest | TokenRequest, PreparedGeneration]):
    """Chat and completion on one language model, every request in one batch."""

    _engine: Engine
    _prompts: PromptBuilder
    _token_lists: TokenLists
    _upkeep: CacheUpkeep
    _adapters: NamedAdapters

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        model, tokenizer = self._load_model(self.folder)
        if self.spec.adapter_path is not None:
            put_on(model, self.spec.adapter_path, f"The adapter '{self.spec.adapter_path}'")
        self._adapters = open_named_adapters(model, self.spec.adapters)
        device.prepare_weights(model)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        own = tokenizer._tokenizer  # pyright: ignore[reportPrivateUsage]
        eos_tokens = frozenset(tokenizer.eos_token_ids)
        width = self._logits_width(model)
        form = open_cache_form(self.spec, model)
        drafter = self._drafter(form, tokenizer)
        tail = open_tail(form)
        mixed = open_mixed_pass(form, tail)
        context_cost = open_context_cost(form, config)
        new_detokenizer = detokenizer_factory(own)
        rows = self._adapters.rows
        parts = EngineModel(form, eos_tokens, new_detokenizer, drafter, rows, tail, mixed, context_cost)
        grammars = GrammarCompiler(own, width, parts.eos_tokens)
        plan = plan_memory(self.spec, model, self.memory_bytes)
        limits = EngineLimits(self.spec.prefill_step_size, plan.kv_bytes, device.max_pairs(num_heads(config)))
        if self.spec.warmup:
            grammars.warm_up()
            self._warm_up(parts, limits)
        prefixes = open_prefix_cache(self.spec, self.folder, form, plan.prefix_bytes)
        self._upkeep = CacheUpkeep(prefixes)
        self._engine = Engine(parts, limits, prefixes, self.emit)
        num_tokens = min(context_length(config, self.spec.context_length), self._engine.longest_row)
        if num_tokens < 1:
            raise ModelLoadError("The memory for KV caches (--max-kv-bytes) holds not a single token.")
        defaults = generation_defaults(self.spec, self.folder)
        self._prompts = PromptBuilder(tokenizer, num_tokens, defaults, grammars, self.spec)
        logger.info("reasoning and tool calls: {}", self._prompts.markup.why)
        self._token_lists = TokenLists(tokenizer, self._prompts)
        architecture = str(config.get("model_type", "unknown"))
        return ModelInfo("lm", num_tokens, architecture, time.monotonic() - started, device.describe())

    @overload
    def prepare(self, request: GenerationRequest) -> PreparedGeneration: ...
    @overload
    def prepare(self, request: TokenizeRequest) -> Tokenized: ...
    @overload
    def prepare(self, request: DetokenizeRequest) -> Detokenized: ...
    def prepare(self, request: GenerationRequest | TokenRequest) -> PreparedGeneration | Tokenized | Detokenized:
        """See `Handler.prepare`."""
        match request:
            case GenerationRequest():
                return self._adapters.chosen(self._prompts.prepare(request), request.adapter)
            case TokenizeRequest():
                return self._token_lists.tokenize(request)
            case DetokenizeRequest():
                return self._token_lists.detokenize(request)

    def submit(self, request_id: int, prepared: PreparedGeneration) -> None:
        """See `Handler.submit`."""
        self._engine.add(request_id, prepared)

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        self._engine.cancel(request_id)

    def turn(self) -> bool:
        """See `Handler.turn`."""
        self._upkeep.work()
        return self._engine.turn()

    def rest(self, idle_s: float) -> float | None:
        """See `Handler.rest`."""
        return self._upkeep.rest(idle_s)

    def inspect(self) -> CacheStats:
        """See `Handler.inspect`."""
        running = self._engine
        return replace(self._upkeep.inspect(), kv_bytes=running.kv_bytes, kv_max_bytes=running.max_kv_bytes)

    def clear_caches(self) -> None:
        """See `Handler.clear_caches`."""
        self._upkeep.clear()

    def close(self) -> None:
        """See `Handler.close`."""
        self._upkeep.close()

    def _load_model(self, folder: Path) -> tuple[nn.Module, TokenizerWrapper]:
        try:
            model, tokenizer = self._read_model(folder)
            if self.spec.chat_template_file is not None:
                tokenizer.chat_template = self.spec.chat_template_file.read_text(encoding="utf-8")
                tokenizer.has_chat_template = True
                # The renderer that mlx_lm itself has for some models would go first.
                tokenizer._chat_template = None  # pyright: ignore[reportPrivateUsage]
        # The libraries raise whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            raise ModelLoadError(
                f"'{self.spec.model_path if folder == self.folder else folder}' cannot be loaded: {_first_line(error)}"
            ) from error
        return model, tokenizer

    def _read_model(self, folder: Path) -> tuple[nn.Module, TokenizerWrapper]:
        """Errors: whatever the libraries raise."""
        options: dict[str, object] = {"trust_remote_code": self.spec.trust_remote_code}
        return load(str(folder), tokenizer_config=options, trust_remote_code=self.spec.trust_remote_code)[:2]

    def _drafter(self, form: CacheForm, tokenizer: TokenizerWrapper) -> Drafter | None:
        """The model that guesses ahead. Errors: ModelLoadError when it cannot guess for this one."""
        path = self.spec.draft_model_path
        if path is None:
            return None
        draft, other = self._load_model(Path(path))
        if other.get_vocab() != tokenizer.get_vocab():
            raise ModelLoadError(f"The draft model '{path}' has another tokenizer; choose one of the same family.")
        if not (form.can_trim and Drafter.can_check(draft)):
            raise ModelLoadError(
                "Drafting needs models whose caches can be cut; start without --draft-model-path"
                + (" or without --max-kv-size." if form.window is not None else ".")
            )
        device.prepare_weights(draft)
        return Drafter(draft, self.spec.num_draft_tokens)

    def _logits_width(self, model: nn.Module) -> int:
        """How many tokens the model tells apart, often more than its tokenizer has."""
        try:
            # Only the shape is asked for: nothing is computed.
            return int(model(mx.array([[0]])).shape[-1])
        except Exception as error:
            logger.opt(exception=error).debug("the model cannot be called")
            raise self._unusable() from error

    def _unusable(self) -> ModelLoadError:
        return ModelLoadError(f"'{self.spec.model_path}' fails on its first tokens; the log says how.")

    def _warm_up(self, parts: EngineModel, limits: EngineLimits) -> None:
        """Run a short row in an engine of its own, so that kernels are compiled before the first request."""
        events: list[Event] = []
        nothing_kept = PrefixCache(parts.form.new(), PrefixCacheLimits(0))
        engine = Engine(parts, limits, nothing_kept, lambda _id, event: events.append(event))
        engine.add(0, PreparedGeneration([1] * 8, 2, SamplingParameters(temperature=1.0)))
        while engine.turn():
            pass
        mx.clear_cache()
        if isinstance(events[-1], Failed):
            raise self._unusable()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
