"""Replies as other servers frame them, cut anywhere, read as streams."""

import itertools

import pytest

from app.bench.call import Call, open_call
from app.bench.endpoint import CallFailed, Endpoint, Refused, endpoint
from app.bench.stream import Stream, read_stream
from tests.bench.golden_replies import (
    BODY,
    COUNTED,
    DONE,
    LAST,
    chunk,
    chunked,
    error,
    replying,
    until_closed,
    with_length,
)

TEXTS = [chunk("a"), chunk("b"), chunk("c")]


def received(*pieces: bytes) -> Call:
    call = Call(b"", 1)
    for piece in pieces:
        call.data_received(piece)
    call.connection_lost(None)
    return call


def stream_of(body: bytes) -> Stream:
    return read_stream(received(with_length(body)))


@pytest.mark.parametrize(
    "reply", [with_length(BODY), until_closed(BODY), *(chunked(BODY, size) for size in (11, 64, 10_000))]
)
def test_a_reply_is_the_same_however_it_is_framed_and_cut(reply: bytes) -> None:
    for cut in range(len(reply) + 1):
        call = received(reply[:cut], reply[cut:])
        assert call.body == BODY
        stream = read_stream(call)
        assert (stream.text, len(stream.times_s), stream.num_tokens) == ("Wörter und mehr", 3, 5)
        assert (stream.num_prompt_tokens, stream.num_cached_tokens, stream.has_usage) == (9, 6, True)


def test_text_has_the_time_of_the_piece_that_ended_its_event() -> None:
    reply = chunked(BODY, 11)
    call = received(*(reply[i : i + 1] for i in range(len(reply))))
    stream = read_stream(call)
    assert stream.times_s == sorted(set(stream.times_s))
    assert stream.gaps_s == pytest.approx([b - a for a, b in itertools.pairwise(stream.times_s)])
    assert 0 < stream.ttft_s <= stream.times_s[-1] - stream.started_s


def test_text_that_arrives_together_has_no_gap_between() -> None:
    stream = stream_of(BODY)
    assert (len(stream.times_s), stream.gaps_s, stream.tokens_per_s) == (3, [], None)


def test_without_usage_pieces_of_text_are_counted() -> None:
    stream = stream_of(b"".join([*TEXTS, LAST, DONE]))
    assert (stream.num_tokens, stream.has_usage, stream.num_cached_tokens) == (3, False, None)


def test_usage_may_come_with_every_chunk() -> None:
    usages = [chunk(text, usage={"completion_tokens": 2 * number}) for number, text in enumerate("abc", 1)]
    assert stream_of(b"".join([*usages, LAST])).num_tokens == 6


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_text_in_time_but_not_in_the_answer(name: str) -> None:
    event = b'data: {"choices":[{"delta":{"%s":"hm"}}]}\n\n' % name.encode()
    stream = stream_of(event + chunk("a") + DONE)
    assert (len(stream.times_s), stream.num_tokens, stream.text) == (2, 2, "a")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"".join(TEXTS), "broke off after 3 pieces of text"),
        (LAST + COUNTED + DONE, "had no text"),
        (b"", "had no text"),
        (TEXTS[0] + b'data: {"error":{"message":"the model\\n died"}}\n\n', "ended with an error: the model died"),
        (b"data: nonsense\n\n", "no chat completion chunk"),
        (b'data: {"choices":7}\n\n', "no chat completion chunk"),
    ],
)
def test_a_stream_that_is_none_says_so(body: bytes, said: str) -> None:
    with pytest.raises(CallFailed, match=said):
        stream_of(body)


def test_a_stream_that_was_hung_up_is_read_as_far_as_it_came() -> None:
    reply = until_closed(b"".join(TEXTS) + b'data: {"choi')
    assert read_stream(received(reply), may_be_cut=True).text == "abc"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"no such field","code":1}}', "the server answered 400: no such field"),
        (b'{"error":"no such\\nfield"}', "the server answered 400: no such field"),
        (b'{"message":"no"}', "the server answered 400: no"),
        (b"<html>no</html>", "the server answered 400: <html>no</html>"),
        (b"", "the server answered 400"),
    ],
)
def test_a_refusal_gives_its_status_and_reason(body: bytes, said: str) -> None:
    with pytest.raises(Refused) as caught:
        read_stream(received(with_length(body, "400 Bad Request")))
    assert (str(caught.value), caught.value.status) == (said, 400)


async def test_a_call_over_the_network() -> None:
    async with replying(lambda _: chunked(BODY, 50)) as where:
        call = await open_call(where, "POST", "/chat/completions", b"{}")
        await call.wait(3)
        assert call.status == 200
        await call.wait()
        assert read_stream(call).num_tokens == 5


@pytest.mark.parametrize(
    ("reply", "said"), [(b"", "without an answer"), (b"SSH-2.0-x\r\n\r\n", "the connection broke: .")]
)
async def test_a_server_that_speaks_no_http(reply: bytes, said: str) -> None:
    async with replying(lambda _: reply) as where:
        call = await open_call(where, "GET", "/models")
        with pytest.raises(CallFailed, match=said):
            await call.wait()


async def test_a_reply_without_end_is_given_up() -> None:
    async with replying(lambda _: error("200 OK", "")[:-1]) as where:
        call = await open_call(where, "GET", "/models")
        await call.wait()
        assert call.body.startswith(b'{"error"')
    call = Call(b"", 0.01)
    with pytest.raises(CallFailed, match=r"no end after 0\.01 s"):
        await call.wait()
    assert call.is_over


async def test_nobody_listens() -> None:
    async with replying(lambda _: b"") as where:
        pass
    with pytest.raises(CallFailed, match=r"no connection to http://127\.0\.0\.1"):
        await open_call(where, "GET", "/models")


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("localhost:8080", "http://localhost:8080/v1"),
        ("http://h/openai/v2", "http://h:80/openai/v2"),
        ("https://h/v1/chat/completions", "https://h:443/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_base_urls(base_url: str, shown: str) -> None:
    assert endpoint(base_url).url == shown


@pytest.mark.parametrize("base_url", ["", "ftp://h", "http://", "http://h/v1?x=1", "http://h/v1\r\nX: y", "http://h:x"])
def test_what_is_no_base_url(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        endpoint(base_url)


def test_the_request() -> None:
    where = Endpoint("h", 1, False, "/v1", "secret")
    assert "secret" not in repr(where)
    head, _, body = where.request("POST", "/x", b"{}").partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[:2] == [b"POST /v1/x HTTP/1.1", b"Host: h:1"]
    assert {b"Content-Length: 2", b"Authorization: Bearer secret", b"Connection: close"} <= set(head.split(b"\r\n"))
    assert body == b"{}"
    with pytest.raises(ValueError, match="the API key"):
        endpoint("http://h", "a\r\nb")
