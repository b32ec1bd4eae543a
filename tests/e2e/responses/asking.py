"""How the Responses API's tests ask."""

from typing import Any

from openai import OpenAI
from openai.types.responses import Response, ResponseCompletedEvent, ResponseIncompleteEvent, ResponseStreamEvent

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import END_TOKEN

RESPONSES = "/v1/responses"
FOX = "the quick brown fox jumps over the lazy dog. "
GREEDY: dict[str, Any] = {"model": "any", "input": "hello", "max_output_tokens": 9, "temperature": 0}
# Only somebody else ends such a response.
ENDLESS: dict[str, Any] = {
    "model": "any",
    "input": "hello",
    "max_output_tokens": 120_000,
    "extra_body": {"logit_bias": {str(END_TOKEN): -100}},
}


def greedy(**fields: Any) -> dict[str, Any]:
    """A short request whose answer is always the same."""
    return GREEDY | fields


def open_client(server: ServerProcess) -> OpenAI:
    """OpenAI's own client, told to accept nothing but what OpenAI documents."""
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


def refusal(server: ServerProcess, path: str = RESPONSES, /, **body: object) -> tuple[int, str | None, str | None]:
    """Status, code and param of an error."""
    reply = server.post(body, path)
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


def end_of(events: list[ResponseStreamEvent]) -> Response:
    """The response that a stream ended in."""
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent | ResponseIncompleteEvent)
    return last.response
