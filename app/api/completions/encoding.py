"""Events to text completions and chunks.

The bytes around a chunk's text are made once per reply: a delta costs one JSON string.
"""

import math
import secrets
import time
from collections.abc import Sequence

import msgspec

from app.api.chat.encoding import usage_json
from app.api.completions.logprobs import LegacyLogprobs, LogprobsWriter
from app.api.openai_errors import error_json
from app.api.replies import COMMENT
from app.core.completion import Choice, fold
from app.core.events import ChoiceEnded, EchoDelta, Event, Finished, TextDelta, Usage
from app.errors import ServerError

_json = msgspec.json.Encoder().encode


class CompletionReply:
    """One reply's id, time and name, and its encoding in one piece.

    Of every `best_of` choices that were generated, the `num_choices` with the likeliest tokens are shown.
    """

    def __init__(
        self,
        model: str,
        *,
        num_choices: int = 1,
        best_of: int = 1,
        has_logprobs: bool = False,
        includes_usage: bool = False,
    ) -> None:
        self.id = f"cmpl-{secrets.token_hex(14)}"
        self.created = int(time.time())
        self.model = model
        self.includes_usage = includes_usage
        self._num_choices = num_choices
        self._best_of = best_of
        self._has_logprobs = has_logprobs

    def completion(self, events: list[Event]) -> bytes:
        """The whole reply."""
        whole = fold(events)
        shown = self._best(whole.choices)
        written = {generated: _Written() for generated in shown}
        for event in events:
            if isinstance(event, EchoDelta | TextDelta) and event.choice in written:
                written[event.choice].take(event)
        choices = [
            {
                "index": index,
                "text": "".join(written[generated].pieces),
                "logprobs": written[generated].logprobs if self._has_logprobs else None,
                "finish_reason": _reason(whole.choices[generated].reason),
            }
            for index, generated in enumerate(shown)
        ]
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return _json(head | {"choices": choices, "usage": usage_json(whole.usage)})

    def _best(self, choices: list[Choice]) -> list[int]:
        """Which of the generated choices are shown, the best of each prompt first."""
        if self._best_of == self._num_choices:
            return list(range(len(choices)))
        shown: list[int] = []
        for start in range(0, len(choices), self._best_of):
            own = range(start, start + self._best_of)
            shown += sorted(own, key=lambda index: -_mean_logprob(choices[index]))[: self._num_choices]
        return shown


class _Written:
    """A choice's text and log-probabilities so far."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.logprobs: LegacyLogprobs | None = None
        self._writer = LogprobsWriter()

    def take(self, event: EchoDelta | TextDelta) -> None:
        self.pieces.append(event.text)
        new = self._writer.write(event)
        if self.logprobs is None:
            self.logprobs = new
        elif new is not None:
            self.logprobs.extend(new)


class CompletionStream:
    """One reply's encoding in chunks."""

    def __init__(self, reply: CompletionReply, num_choices: int, request_id: str) -> None:
        self._request_id = request_id
        self._includes_usage = reply.includes_usage
        head = (_json(reply.id), reply.created, _json(reply.model))
        self._head = b'data: {"id":%s,"object":"text_completion","created":%d,"model":%s,"choices":[' % head
        # With usage asked for, OpenAI puts a null into every chunk but the last.
        self._tail = b'],"usage":null}\n\n' if reply.includes_usage else b"]}\n\n"
        self._before_text = [self._head + b'{"index":%d,"text":' % index for index in range(num_choices)]
        self._after_text = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._writers = [LogprobsWriter() for _ in range(num_choices)]

    def encode(self, events: Sequence[Event]) -> bytes:
        """See `StreamEncoder.encode`."""
        return b"".join(map(self._frame, events))

    def error(self, error: ServerError) -> bytes:
        """See `StreamEncoder.error`: one error event, no finish_reason, no [DONE]."""
        return b"data: " + error_json(error, self._request_id) + b"\n\n"

    def heartbeat(self) -> bytes:
        """See `StreamEncoder.heartbeat`."""
        return COMMENT

    def _frame(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, choice, None):
                return self._before_text[choice] + _json(text) + self._after_text
            case EchoDelta(text, choice) | TextDelta(text, choice):
                return self._chunk(choice, _json(text), _json(self._writers[choice].write(event)), b"null")
            case ChoiceEnded(reason, choice):
                return self._chunk(choice, b'""', b"null", _json(_reason(reason)))
            case Finished(usage):
                return self._usage(usage) + b"data: [DONE]\n\n"
            case _:
                return b""

    def _chunk(self, choice: int, text: bytes, logprobs: bytes, reason: bytes) -> bytes:
        rest = b',"logprobs":%s,"finish_reason":%s}' % (logprobs, reason)
        return self._before_text[choice] + text + rest + self._tail

    def _usage(self, usage: Usage) -> bytes:
        if not self._includes_usage:
            return b""
        return self._head + b'],"usage":' + _json(usage_json(usage)) + b"}\n\n"


def _reason(reason: str) -> str:
    """A text that goes on has no calls: it has stopped, or it was cut off."""
    return "length" if reason == "length" else "stop"


def _mean_logprob(choice: Choice) -> float:
    """Of the tokens of an answer; one that says nothing is no best answer."""
    values = [token.logprob for token in choice.logprobs or []]
    return math.fsum(values) / len(values) if values else -math.inf
