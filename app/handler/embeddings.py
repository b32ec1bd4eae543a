"""The handler of embedding models: the inputs of all waiting requests go through the model together."""

import json
import time
from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from loguru import logger
from mlx import nn
from mlx_vlm.embedding_loader import load_embedding_model
from mlx_vlm.models.pooling import read_pooling_config
from numpy.typing import NDArray
from transformers import AutoTokenizer

from app.core.events import Embedded, Usage
from app.core.failures import of_exception, to_event
from app.core.frames import ModelInfo
from app.core.model_config import context_length
from app.core.requests import EmbeddingRequest
from app.errors import ContextLengthExceeded, InternalError, InvalidRequest, ModelLoadError, ServerError
from app.handler import device
from app.handler.base import Handler
from app.handler.context import num_tokens_at_least
from app.handler.embedding_line import EmbeddingLine, PassSize, PreparedEmbedding, Row, WaitingRequest

_PASSES_BETWEEN_CLEARS = 64


class InputTokenizer:
    """Turns inputs into tokens and checks them. Owned by the prepare thread once the model is loaded."""

    def __init__(self, tokenizer: Any, context_length: int, vocabulary_size: int, num_dimensions: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._vocabulary_size = vocabulary_size
        self._num_dimensions = num_dimensions

    def prepare(self, request: EmbeddingRequest) -> PreparedEmbedding:
        """Errors: InvalidRequest and ContextLengthExceeded, which name the first such input."""
        if request.dimensions is not None and request.dimensions > self._num_dimensions:
            raise InvalidRequest(
                f"'dimensions' is {request.dimensions}, and this model's vectors have {self._num_dimensions}.",
                param="dimensions",
            )
        for place, given in enumerate(request.inputs):
            self._look_at(place, given)
        texts = [given for given in request.inputs if isinstance(given, str)]
        tokenized = iter(self._tokenize(texts) if texts else [])
        inputs = [next(tokenized) if isinstance(given, str) else given for given in request.inputs]
        for place, tokens in enumerate(inputs):
            self._check_length(place, tokens)
        return PreparedEmbedding(inputs, request.dimensions)

    def _look_at(self, place: int, given: str | list[int]) -> None:
        """Refuse what needs no tokenizing to be refused."""
        if not given:
            raise InvalidRequest(f"'input[{place}]' is empty; leave it out.", param=f"input[{place}]")
        if isinstance(given, str):
            if count := num_tokens_at_least(given, lambda text: self._tokenize([text])[0], self._context_length):
                raise self._too_long(place, f"at least {count}")
        elif unknown := [token for token in given if not 0 <= token < self._vocabulary_size]:
            raise InvalidRequest(
                f"'input[{place}]' has the token {unknown[0]}; this model's tokens go from 0 to "
                f"{self._vocabulary_size - 1}.",
                param=f"input[{place}]",
            )

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        # Padding and truncation are named because tokenizer.json may ask for them; verbose warns about long texts.
        encoded = self._tokenizer(
            texts,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"]

    def _check_length(self, place: int, tokens: list[int]) -> None:
        if not tokens:
            raise InvalidRequest(f"'input[{place}]' is empty to this model's tokenizer.", param=f"input[{place}]")
        if len(tokens) > self._context_length:
            raise self._too_long(place, str(len(tokens)))

    def _too_long(self, place: int, count: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's context is {self._context_length} tokens; 'input[{place}]' has {count}. Split it.",
            param=f"input[{place}]",
        )


class EmbeddingsHandler(Handler[EmbeddingRequest, PreparedEmbedding]):
    """Embeddings of one model; a turn is one forward pass over inputs of as many requests as fit."""

    _model: nn.Module
    _inputs: InputTokenizer

    def load(self) -> ModelInfo:
        """See `Handler.load`."""
        started = time.monotonic()
        self._line = EmbeddingLine()
        self._freed_memory = device.FreedMemory()
        self._pass_size = PassSize()
        self._num_passes = 0
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        try:
            self._model, tokenizer = self._load_model()
            device.prepare_weights(self._model)
            num_dimensions = self._warm_up()
        # The libraries raise whatever a broken file leads to; there is no narrower common class.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelLoadError(f"'{self.spec.model_path}' cannot be loaded: {reason}") from error
        num_tokens = context_length(config, self.spec.context_length)
        vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        if isinstance(num_rows := config.get("vocab_size"), int):
            vocabulary_size = min(vocabulary_size, num_rows)
        self._inputs = InputTokenizer(tokenizer, num_tokens, vocabulary_size, num_dimensions)
        architecture = str(config.get("model_type", "unknown"))
        return ModelInfo("embeddings", num_tokens, architecture, time.monotonic() - started, device.describe())

    def prepare(self, request: EmbeddingRequest) -> PreparedEmbedding:
        """See `Handler.prepare`."""
        return self._inputs.prepare(request)

    def submit(self, request_id: int, prepared: PreparedEmbedding) -> None:
        """See `Handler.submit`."""
        self._line.add(request_id, prepared)

    def cancel(self, request_id: int) -> None:
        """See `Handler.cancel`."""
        self._line.remove([request_id])

    def turn(self) -> bool:
        """See `Handler.turn`."""
        if self._line:
            self._embed(self._line.next_pass(self._pass_size.num_tokens))
        return bool(self._line)

    def rest(self, idle_s: float) -> float | None:
        """See `Handler.rest`."""
        return self._freed_memory.give_back(idle_s)

    def _load_model(self) -> tuple[nn.Module, Any]:
        model = load_embedding_model(self.folder)
        # The loader leaves this to its caller, and a model pools by its architecture's habit without.
        if (pooling := read_pooling_config(self.folder)) is not None:
            model.pooling_config = pooling
        tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.spec.trust_remote_code)
        # transformers makes one up where there are no files.
        if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
            raise ValueError("it has no tokenizer files")
        return model, tokenizer

    def _warm_up(self) -> int:
        """Embed something, which shows whether the model can; gives the length of its vectors."""
        if self.spec.warmup:
            # A padded batch runs other kernels than a single row.
            self._forward([[1] * 8] * 7 + [[1] * 4])
        return self._forward([[1, 1]]).shape[1]

    def _embed(self, rows: list[Row]) -> None:
        """Run a pass; answer the requests that it completes."""
        requests = {row.request.id: row.request for row in rows}
        started = time.perf_counter()
        try:
            vectors = self._forward([row.tokens for row in rows])
        except Exception as error:
            logger.exception("a forward pass over {} inputs failed", len(rows))
            self._fail(requests, of_exception(error))
            return
        self._pass_size.note(len(rows) * max(len(row.tokens) for row in rows), time.perf_counter() - started)
        broken = {row.request.id for row, vector in zip(rows, vectors, strict=True) if not np.isfinite(vector).all()}
        if broken:
            logger.error("the vectors of {} requests are not finite: the model's numbers overflow", len(broken))
            self._fail(broken, InternalError())
        for row, vector in zip(rows, vectors, strict=True):
            if row.request.id not in broken:
                row.request.vectors[row.place] = _unit_bytes(vector[: row.request.asked.dimensions])
        for request in requests.values():
            if not request.left and request.id not in broken:
                self._finish(request)

    def _forward(self, inputs: Sequence[list[int]]) -> NDArray[np.float32]:
        """One vector per input, as the model gives it."""
        shape = (len(inputs), max(map(len, inputs)))
        # The mask hides what is on the right, so that any token may stand there.
        tokens = np.zeros(shape, np.int32)
        mask = np.zeros(shape, np.int32)
        for row, given in enumerate(inputs):
            tokens[row, : len(given)] = given
            mask[row, : len(given)] = 1
        output = self._model(mx.array(tokens), attention_mask=mx.array(mask))
        vectors = getattr(output, "text_embeds", None)
        if vectors is None or vectors.ndim != 2:
            raise ValueError("this architecture does not give one vector per text")
        result = np.array(vectors.astype(mx.float32))
        self._num_passes += 1
        if self._num_passes % _PASSES_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        return result

    def _finish(self, request: WaitingRequest) -> None:
        usage = Usage(sum(map(len, request.asked.inputs)))
        self.emit(request.id, Embedded(request.vectors, usage))
        self._line.remove([request.id])

    def _fail(self, request_ids: Collection[int], error: ServerError) -> None:
        for request_id in request_ids:
            self.emit(request_id, to_event(error))
        self._line.remove(request_ids)


def _unit_bytes(vector: NDArray[np.float32]) -> bytes:
    """The vector at length 1, as little-endian float32; zeros stay zeros."""
    length = np.linalg.norm(vector)
    return (vector / length if length else vector).astype("<f4").tobytes()
