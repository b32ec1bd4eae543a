"""One response, from what was asked for to what is kept of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
from loguru import logger

from app.api.media.reader import MediaReader
from app.api.responses.items import stored_items
from app.api.responses.kept import CONVERSATION_ITEM, RESPONSE, RESPONSE_INPUT, RESPONSE_OUTPUT
from app.api.responses.order import Order, to_generation
from app.api.responses.output_items import Shown
from app.api.responses.response_object import ResponseObject, summary_of
from app.api.responses.stream import ResponseStream
from app.api.responses.truncation import shortened
from app.core.record import RequestRecord
from app.core.registry import Registry
from app.core.requests import GenerationRequest
from app.core.store import Store
from app.core.store_file import StoreError
from app.core.store_objects import StoredObject
from app.errors import ContextLengthExceeded, InternalError, ServerError
from app.schemas.responses import ReasoningOptions, ResponseRequest

_json = msgspec.json.Encoder().encode
# What a worker calls by the chat API's names.
_PARAMS = {"messages": "input", "response_format": "text.format", "max_tokens": "max_output_tokens"}
# Takes the frames of a stream as they come.
Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where responses are made and kept, and their media read."""

    registry: Registry
    store: Store
    media: MediaReader


class Making:
    """A response that is being made. Owned by the event loop's thread."""

    def __init__(self, place: Workplace, order: Order, conversation_id: str | None, record: RequestRecord) -> None:
        """Errors: InvalidRequest, ModelNotFound."""
        body = self.body = order.body
        self.record = record
        # Set by whoever cancels the making, where it is to have failed by that.
        self.stop_error: ServerError | None = None
        self._request = to_generation(body, order.conversation)
        self._place = place
        self._given = order.given
        self._conversation_id = conversation_id
        self._is_noted = False
        model = place.registry.find(body.model)
        self.about = ResponseObject(body, body.model or model.spec.name, conversation_id)
        self.stream = ResponseStream(self.about, order.toolbox, _shown(body))
        self._response = b""

    @property
    def id(self) -> str:
        """The response's id."""
        return self.about.id

    @property
    def response(self) -> bytes:
        """The response as it stands, or as it ended."""
        return self._response or self.stream.response()

    def end(self) -> bytes:
        """The last event of the stream."""
        return self.stream.end(self.response)

    async def note(self) -> None:
        """Keep that the response is being made: its client knows its id from now on."""
        self._is_noted = await self._put([self._row(self.response), *self._inputs()])

    async def run(self, write: Write) -> None:
        """Make the response and keep it; `write` takes all events but the last.

        Errors: ServerError; then, as when it is cancelled, the response ends as having failed.
        """
        try:
            await self._generate(write)
        except asyncio.CancelledError:
            await self._fail(self.stop_error)
            raise
        except ServerError as error:
            error.param = _PARAMS.get(error.param or "", error.param)
            await self._fail(error)
            raise
        # Where nobody waits for a reply nobody else would render it.
        except Exception as error:
            logger.exception("request {}: the response failed", self.record.request_id)
            failure = InternalError()
            await self._fail(failure)
            raise failure from error
        self.stream.complete()
        await self._keep(self._conversation_items())

    async def _generate(self, write: Write) -> None:
        error: ContextLengthExceeded | None = None
        for request in self._attempts():
            try:
                async with self._place.registry.run(self.body.model, request, self.record) as events:
                    async for batch in events:
                        self.record.note(batch)
                        frames = self.stream.encode(batch)
                        if self._is_known and not self._is_noted and self.about.is_stored:
                            await self.note()
                        await write(frames)
                return
            except ContextLengthExceeded as failure:
                error = failure
        if error is not None:
            raise error

    def _attempts(self) -> Iterator[GenerationRequest]:
        """What to ask for, and where that does not fit and may be cut, what to ask for then."""
        return chain([self._request], shortened(self._request) if self.body.truncation == "auto" else ())

    @property
    def _is_known(self) -> bool:
        """Whether the client has heard of the response before its end."""
        return self._is_noted or (bool(self.body.stream) and self.stream.has_begun)

    async def _fail(self, error: ServerError | None) -> None:
        self.stream.fail(error)
        if self._is_known:
            await self._keep([])

    async def _keep(self, others: Sequence[StoredObject]) -> None:
        """Keep how the response has ended, and `others`; where that fails, the response says so."""
        self._response = self.stream.response()
        objects = [*others]
        if self.about.is_stored:
            inputs = [] if self._is_noted else self._inputs()
            objects += [self._row(self._response), *inputs, *self._outputs(RESPONSE_OUTPUT, self.id)]
        if objects and not await self._put(objects):
            self._response = self.stream.response()

    async def _put(self, objects: Sequence[StoredObject]) -> bool:
        """Store objects; whether they are stored. The answer is worth more than that it is kept."""
        try:
            await self._place.store.put(objects)
        except StoreError as error:
            logger.error("request {}: the response {} is not stored: {}", self.record.request_id, self.id, error)
            self.about.is_stored = False
            return False
        return True

    def _row(self, response: bytes) -> StoredObject:
        body, created = self.body, self.about.created_at
        follows, metadata = body.previous_response_id, body.metadata or {}
        return StoredObject(RESPONSE, self.id, response, created, follows=follows, metadata=metadata)

    def _inputs(self) -> list[StoredObject]:
        return stored_items(self._given.items, RESPONSE_INPUT, self.id, self.about.created_at)

    def _outputs(self, kind: str, owner: str) -> list[StoredObject]:
        created = self.about.created_at
        return [StoredObject(kind, str(item["id"]), _json(item), created, owner) for item in self.stream.output]

    def _conversation_items(self) -> list[StoredObject]:
        """What the response adds to its conversation."""
        if self._conversation_id is None:
            return []
        kind, owner = CONVERSATION_ITEM, self._conversation_id
        return [
            *stored_items(self._given.items, kind, owner, self.about.created_at),
            *self._outputs(kind, owner),
        ]


def _shown(body: ResponseRequest) -> Shown:
    return Shown(
        has_summary=summary_of(body.reasoning or ReasoningOptions()) is not None,
        is_sealed="reasoning.encrypted_content" in (body.include or ()),
        is_background=bool(body.background),
    )
