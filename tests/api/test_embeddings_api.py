import base64
import json
import struct
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.bodies import _explained
from app.api.embeddings import _inputs, _reply
from app.core.events import Embedded, Usage
from app.errors import InvalidRequest
from app.schemas.embeddings import MAX_INPUTS, EmbeddingsReply, EmbeddingsRequest

# The last is not exact in float32, nor short in decimals.
VECTORS = [(1.0, 0.0, -0.5), (0.25, -2.0, 0.1)]
EVENT = Embedded([struct.pack("<3f", *vector) for vector in VECTORS], Usage(7))


def request(given: object, **fields: object) -> EmbeddingsRequest:
    return EmbeddingsRequest.model_validate_json(json.dumps({"input": given, **fields}))


def refusal(body: str) -> InvalidRequest:
    """What a client is told about a body."""
    with pytest.raises(ValidationError) as caught:
        EmbeddingsRequest.model_validate_json(body)
    return _explained(caught.value)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one text", ["one text"]),
        (["one", "two"], ["one", "two"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["x"] * MAX_INPUTS, ["x"] * MAX_INPUTS),
        # Tokens are one input, however many.
        ([5] * (MAX_INPUTS + 1), [[5] * (MAX_INPUTS + 1)]),
        (["naïve \U0001f642", " "], ["naïve \U0001f642", " "]),
    ],
)
def test_every_form_of_input_becomes_a_list_of_inputs(given: object, inputs: list[str | list[int]]) -> None:
    assert _inputs(request(given).input) == inputs


def test_fields_that_are_not_given_are_none() -> None:
    body = request("x")
    assert (body.model, body.encoding_format, body.dimensions) == (None, None, None)
    assert request("x", user="u", unknown=1, encoding_format="float").encoding_format == "float"


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ("5", "input", "a text, a list of texts, a list of tokens or a list of such lists, not 5."),
        ("null", "input", "a text, a list of texts"),
        ("true", "input", "a text, a list of texts"),
        ("NaN", "input", "a text, a list of texts"),
        ('{"text": "x"}', "input", "a text, a list of texts"),
        ('[{"text": "x"}]', "input", "a text, a list of texts"),
        ("[null]", "input", "a text, a list of texts"),
        ('""', "input", "at least 1 character"),
        ("[]", "input", "at least 1 item"),
        ('["x", ""]', "input[1]", "at least 1 character"),
        ('["x", 5]', "input[1]", "valid string, not 5"),
        ('["x", [5]]', "input[1]", "valid string"),
        ('[5, "x"]', "input[1]", "valid integer, not 'x'"),
        ("[5, 1.5]", "input[1]", "valid integer, not 1.5"),
        ("[NaN]", "input[0]", "valid integer, not nan"),
        ("[true]", "input[0]", "valid integer, not True"),
        ("[5, -1]", "input[1]", "greater than or equal to 0, not -1"),
        ("[4294967296]", "input[0]", "less than or equal to 2147483647"),
        ("[[5], []]", "input[1]", "at least 1 item"),
        ('[[5], "x"]', "input[1]", "valid array, not 'x'"),
        ('[[5], ["x"]]', "input[1][0]", "valid integer, not 'x'"),
        ("[[[5]]]", "input[0][0]", "valid integer"),
        (json.dumps(["x"] * (MAX_INPUTS + 1)), "input", f"at most {MAX_INPUTS} items"),
        (json.dumps([[5]] * (MAX_INPUTS + 1)), "input", f"at most {MAX_INPUTS} items"),
    ],
)
def test_a_wrong_input_is_named_and_explained(given: str, param: str, said: str) -> None:
    error = refusal(f'{{"input": {given}}}')
    assert error.param == param
    assert said in error.message
    assert error.status == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimensions", "0"),
        ("dimensions", '"256"'),
        ("dimensions", "1e400"),
        ("encoding_format", '"int8"'),
        ("model", "5"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: str) -> None:
    assert refusal(f'{{"input": "x", "{field}": {value}}}').param == field


def test_a_missing_input_is_named() -> None:
    error = refusal('{"model": "x"}')
    assert (error.param, error.error_code) == ("input", "missing_required_parameter")


def test_a_list_of_rubbish_is_one_error() -> None:
    with pytest.raises(ValidationError) as caught:
        request(["x", *[1.5] * 10_000])
    assert caught.value.error_count() == 1


def decoded(in_base64: bool) -> dict[str, Any]:
    reply = json.loads(_reply([EVENT], "a/model", in_base64=in_base64))
    EmbeddingsReply.model_validate(reply, strict=True)
    return reply


def test_a_reply_has_what_openai_documents() -> None:
    reply = decoded(in_base64=False)
    assert reply["object"] == "list"
    assert reply["model"] == "a/model"
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [(one["object"], one["index"]) for one in reply["data"]] == [("embedding", 0), ("embedding", 1)]


def test_numbers_are_the_float32_that_the_model_gave() -> None:
    first, second = (one["embedding"] for one in decoded(in_base64=False)["data"])
    assert first == list(VECTORS[0])
    assert second == list(struct.unpack("<3f", struct.pack("<3f", *VECTORS[1])))


def test_base64_is_of_little_endian_float32() -> None:
    texts = [one["embedding"] for one in decoded(in_base64=True)["data"]]
    assert [base64.b64decode(text, validate=True) for text in texts] == EVENT.vectors
    assert texts[0] == "AACAPwAAAAAAAAC/"


def test_a_request_that_ended_without_vectors_is_a_defect() -> None:
    with pytest.raises(ValueError, match="without its vectors"):
        _reply([], "a/model", in_base64=False)
