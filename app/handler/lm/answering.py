"""The requests that are being answered, and what is told of them."""

from collections.abc import Callable

from app.core.events import ChoiceEnded, Finished, PrefillProgress, Started, Usage
from app.core.failures import of_exception, to_event
from app.handler.base import Emit
from app.handler.lm.answer import Answer
from app.handler.lm.batch_row import StepToken
from app.handler.lm.detokenizer import Detokenizer
from app.handler.lm.echo import echo_start, echo_tokens
from app.handler.lm.prompts.prompt import PreparedGeneration
from app.handler.lm.row import Prompt, Request, Row
from app.handler.lm.sampling.logprobs import StepLogprobs
from app.handler.lm.sampling.sampling import RowSampler

# As far back as a character may have begun that is not complete, and whatever else a detokenizer looks at.
_TOKENS_TO_CONTINUE_FROM = 8


class Answering:
    """Turns what the engine does into events. Owned by the worker's main thread."""

    def __init__(self, eos_tokens: frozenset[int], new_detokenizer: Callable[[], Detokenizer], emit: Emit) -> None:
        self._eos_tokens = eos_tokens
        self._new_detokenizer = new_detokenizer
        self._emit = emit
        self._requests: dict[int, Request] = {}
        self._num_rows = 0

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request_id: int, asked: PreparedGeneration) -> Prompt:
        """Take a request in; gives its prompt, from which its rows start."""
        rows = [self._new_row(request_id, choice, asked) for choice in range(asked.num_choices)]
        self._requests[request_id] = Request(asked, rows)
        return Prompt(request_id, asked, rows, asked.prompt)

    def remove(self, request_id: int) -> list[Row]:
        """Forget a request, of which nothing more is told; gives its rows, none for an unknown one."""
        request = self._requests.pop(request_id, None)
        return [] if request is None else request.rows

    def fail(self, request_id: int, error: Exception) -> list[Row]:
        """End a request with an error; gives its rows."""
        if request_id not in self._requests:
            return []
        self._emit(request_id, to_event(of_exception(error)))
        return self.remove(request_id)

    def tell_progress(self, prompt: Prompt, logprobs: list[StepLogprobs]) -> None:
        """A prompt was prefilled as far as it says; `logprobs` are of its tokens that were predicted, if asked for."""
        request = self._requests[prompt.request_id]
        if request.num_cached is None:
            request.num_cached = prompt.num_cached
            self._emit(prompt.request_id, Started(len(prompt.tokens), prompt.num_cached))
            for event in echo_start(prompt):
                self._emit(prompt.request_id, event)
        # A prompt that had to start again has been further.
        if not prompt.is_back and prompt.num_prefilled >= request.num_told:
            request.num_told = prompt.num_prefilled + 1
            self._emit(prompt.request_id, PrefillProgress(prompt.num_prefilled, len(prompt.tokens)))
        for event in echo_tokens(prompt, logprobs):
            self._emit(prompt.request_id, event)

    def take(self, row: Row, given: StepToken) -> bool:
        """Tell a row's next token; whether it was the last. Errors: the row's own, of its grammar or its text."""
        if given.token is None:
            raise ValueError("the grammar failed")
        events = row.take(given.token, given.logprobs, is_eos=given.token in self._eos_tokens)
        for event in events:
            self._emit(row.request_id, event)
        return bool(events) and isinstance(events[-1], ChoiceEnded)

    def end(self, row: Row) -> None:
        """End a row that is to say nothing."""
        self._emit(row.request_id, ChoiceEnded("length", row.choice))
        self.finish(row)

    def finish(self, row: Row) -> None:
        """A row has told its last; its request is over when all have."""
        row.has_ended = True
        request = self._requests.get(row.request_id)
        if request is not None and all(other.has_ended for other in request.rows):
            count = sum(len(other.generated) for other in request.rows)
            num_reasoning = sum(other.num_reasoning for other in request.rows)
            usage = Usage(len(request.asked.prompt), count, request.num_cached or 0, num_reasoning)
            self._emit(row.request_id, Finished(usage))
            del self._requests[row.request_id]

    def _new_row(self, request_id: int, choice: int, asked: PreparedGeneration) -> Row:
        self._num_rows += 1
        detokenizer = self._new_detokenizer()
        if asked.continues_text:
            for token in asked.prompt[-_TOKENS_TO_CONTINUE_FROM:]:
                detokenizer.push(token)
        return Row(
            id=self._num_rows,
            request_id=request_id,
            choice=choice,
            asked=asked,
            detokenizer=detokenizer,
            answer=Answer(choice, asked.stop, asked.reading, has_logprobs=asked.top_logprobs is not None),
            sampler=RowSampler(asked.sampling, asked.prompt, choice, detokenizer.bytes_of),
            guide=asked.guide.copy() if asked.guide is not None else None,
        )
