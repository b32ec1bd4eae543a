"""The server that is measured: what it is asked, and how."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from app.bench.call import Call, open_call
from app.bench.endpoint import CallFailed, Endpoint, Refused
from app.bench.stream import Stream, read_stream

Messages = Sequence[Mapping[str, str]]


def asking(text: str) -> list[Mapping[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


@dataclass(frozen=True, slots=True)
class Server:
    """A model behind an endpoint. `gives_usage`: it takes `stream_options.include_usage`."""

    endpoint: Endpoint
    model: str
    gives_usage: bool = True

    async def begin(self, messages: Messages, num_tokens: int, **fields: object) -> Call:
        """Ask for a streamed, greedy answer. Errors: CallFailed."""
        body: dict[str, object] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            **fields,
        }
        if self.gives_usage:
            body["stream_options"] = {"include_usage": True}
        return await open_call(self.endpoint, "POST", "/chat/completions", json.dumps(body).encode())

    async def stream(self, messages: Messages, num_tokens: int, **fields: object) -> Stream:
        """A whole answer. Errors: CallFailed."""
        call = await self.begin(messages, num_tokens, **fields)
        try:
            await call.wait()
        finally:
            call.hang_up()
        return read_stream(call)


async def find_server(endpoint: Endpoint, model: str | None) -> Server:
    """The server, once it has answered: its model, and whether it counts tokens. Errors: CallFailed."""
    server = Server(endpoint, model or await _first_model(endpoint))
    try:
        answer = await server.stream(asking("Hello!"), 4)
    except Refused as refusal:
        if refusal.status not in (400, 422):
            raise
        server = replace(server, gives_usage=False)
        answer = await server.stream(asking("Hello!"), 4)
    return replace(server, gives_usage=server.gives_usage and answer.has_usage)


async def _first_model(endpoint: Endpoint) -> str:
    call = await open_call(endpoint, "GET", "/models")
    await call.wait()
    if call.status in (401, 403):
        raise CallFailed(f"{endpoint.url} wants an API key: give it with --api-key")
    listed: Any = None
    with suppress(ValueError):
        listed = json.loads(call.body)
    try:
        return str(listed["data"][0]["id"])
    except (TypeError, LookupError):
        raise CallFailed(f"{endpoint.url}/models names no model: give its name with --model") from None
