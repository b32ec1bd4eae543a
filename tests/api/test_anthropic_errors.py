import json
from typing import get_args

import pytest
from anthropic.types import ErrorType

from app import errors
from app.api.messages.errors import error_json, error_response, is_anthropic
from app.errors import MethodNotAllowed, ServerError
from app.schemas.messages_replies import AnthropicErrorBody

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ServerError)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", True),
        ("/v1/messages/", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/messages/nothing", True),
        ("/anthropic", True),
        ("/anthropic/v1/models/a/b", True),
        ("/v1/messages2", False),
        ("/v1/models", False),
        ("/anthropics", False),
        ("/", False),
    ],
)
def test_the_path_says_whose_errors_are_shown(path: str, expected: bool) -> None:
    assert is_anthropic(path) == expected


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_type_that_anthropic_documents(cls: type[ServerError]) -> None:
    body = AnthropicErrorBody.model_validate_json(error_json(cls("It broke."), "req_1"), strict=True, extra="forbid")
    # Too large a body is documented at https://platform.claude.com/docs/en/api/errors, and not in the client.
    assert body.error.type in {*get_args(ErrorType), "request_too_large"}
    assert "It broke." in body.error.message
    assert body.request_id == "req_1"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidRequest("x"), 400, "invalid_request_error"),
        (errors.UnsupportedField("x"), 400, "invalid_request_error"),
        (errors.Unauthorized("x"), 401, "authentication_error"),
        (errors.ModelNotFound("x"), 404, "not_found_error"),
        (errors.MethodNotAllowed("x"), 405, "invalid_request_error"),
        (errors.BodyTooLarge("x"), 413, "request_too_large"),
        (errors.QueueFull("x"), 429, "rate_limit_error"),
        (errors.InternalError(), 500, "api_error"),
        (errors.QueueTimeout("x"), 503, "overloaded_error"),
        (errors.ModelUnavailable("x"), 503, "overloaded_error"),
        (errors.RequestTimeout("x"), 504, "timeout_error"),
    ],
)
def test_errors_keep_their_status_and_get_their_type(error: ServerError, status: int, kind: str) -> None:
    reply = error_response(error, "req_1")
    body = json.loads(bytes(reply.body))
    assert (reply.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert set(body["error"]) == {"type", "message"}


def test_headers_are_those_of_every_protocol() -> None:
    assert error_response(errors.QueueFull("x", retry_after_s=1.2), "r").headers["Retry-After"] == "2"
    assert error_response(errors.Unauthorized("x"), "r").headers["WWW-Authenticate"] == "Bearer"
    assert error_response(MethodNotAllowed("x", allowed="POST"), "r").headers["Allow"] == "POST"


def test_too_long_a_prompt_is_said_in_the_words_that_agents_look_for() -> None:
    body = json.loads(error_json(errors.ContextLengthExceeded("It has 9 tokens."), "req_1"))
    assert body["error"]["message"] == "prompt is too long: It has 9 tokens."
