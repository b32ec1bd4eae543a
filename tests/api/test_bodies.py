import json

import pytest
from pydantic import ValidationError

from app.api.bodies import _explained, field_path
from app.errors import InvalidRequest, UnsupportedField
from app.schemas.chat import ChatCompletionRequest

HELLO = [{"role": "user", "content": "hello"}]


def refusal(body: object) -> InvalidRequest:
    """What a client is told about a chat request."""
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate_json(body if isinstance(body, bytes) else json.dumps(body))
    return _explained(caught.value)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ((), ""),
        (("messages",), "messages"),
        (("messages", 0, "content"), "messages[0].content"),
        (("messages", 2, "content", "list[TextPart]", 1, "text"), "messages[2].content[1].text"),
        (("stop", "str"), "stop"),
        (("stop", "list[str]", 3), "stop[3]"),
        (("max_tokens", "int"), "max_tokens"),
        (("input", "list[list[constrained-int]]", 0, 1), "input[0][1]"),
        (("logit_bias", "5"), "logit_bias"),
        (("metadata", "key"), "metadata.key"),
        (("metadata", "two words"), "metadata"),
    ],
)
def test_a_place_is_written_as_openai_writes_it(location: tuple[int | str, ...], path: str) -> None:
    assert field_path(location) == path


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "'temperature': Input should be less than or equal to 2, not 3."),
        ({"temperature": "hot"}, "temperature", "'temperature': Input should be a valid number, not 'hot'."),
        ({"stop": ["a"] * 65}, "stop", "'stop': List should have at most 64 items after validation, not 65."),
        ({"stop": [1]}, "stop[0]", "'stop[0]': Input should be a valid string, not 1."),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "'messages[0].content': "),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "'messages[0].role': Field required."),
    ],
)
def test_a_refusal_names_the_field_and_what_is_wrong(fields: dict[str, object], param: str, message: str) -> None:
    error = refusal({"messages": HELLO} | fields)
    assert error.param == param
    assert error.message.startswith(message)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "invalid_json"), (b"[]", "invalid_type"), (b"{}", "missing_required_parameter")],
)
def test_a_refusal_has_a_code(body: bytes, code: str) -> None:
    assert refusal(body).error_code == code


def test_what_a_client_sent_is_shown_in_short() -> None:
    error = refusal({"messages": HELLO, "temperature": "x" * 100_000})
    assert len(error.message) < 400
    assert error.message.endswith("xxx....")


def test_what_is_not_supported_is_said_so() -> None:
    error = refusal({"messages": HELLO, "prediction": {}})
    assert isinstance(error, UnsupportedField)
    assert error.message == "'prediction' is not supported by this server."


@pytest.mark.parametrize(("field", "value"), [("n", True), ("n", 1.0), ("logprobs", 0), ("store", "no"), ("tools", {})])
def test_what_only_looks_like_nothing_is_refused(field: str, value: object) -> None:
    assert refusal({"messages": HELLO, field: value}).param == field
