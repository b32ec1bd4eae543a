"""A 4xx that says what is wrong."""

import httpx

# The beginning of a chat request that is sent byte by byte.
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


def assert_refused(
    reply: httpx.Response, says: str = "", *, status: int = 400, param: str | None = None, code: str | None = None
) -> None:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body.keys() == {"error", "request_id"}
    assert body["request_id"] == reply.headers["X-Request-ID"]
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert len(error["message"]) < 1000
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
