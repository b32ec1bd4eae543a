"""What is measured of servers that can less than ours: the rest is a note, never a traceback."""

import pytest

from app.bench.course import Course
from app.bench.endpoint import CallFailed
from app.bench.plan import Plan
from app.bench.scenarios import keeps_to_schema
from app.bench.server import find_server
from tests.bench.golden_replies import BODY, DONE, LAST, TEXT_EVENTS, chunked, error, replying, with_length

MODELS = with_length(b'{"object":"list","data":[{"id":"their-model"}]}')
PLAN = Plan(concurrencies=(1, 3), num_rounds=1, num_tokens=8)


def silent(_: str) -> None:
    pass


def course(plan: Plan = PLAN) -> Course:
    return Course(plan, silent)


async def test_a_server_that_refuses_schemas_is_measured_without() -> None:
    def reply(request: bytes) -> bytes:
        if request.startswith(b"GET /v1/models"):
            return MODELS
        return error("400 Bad Request", "no schemas") if b"json_schema" in request else chunked(BODY, 40)

    async with replying(reply) as where:
        server = await find_server(where, None)
        assert (server.model, server.gives_usage) == ("their-model", True)
        it = course()
        await it.run(server)
        await it.prefix(server)
    assert set(it.figures.load) == {1, 3}
    assert it.figures.prefix is not None
    assert it.figures.prefix.cached_share == pytest.approx(6 / 9)
    assert it.figures.constrained is None
    assert "Not measured, or not to the end: constrained decoding: the server answered 400: no schemas." in it.notes
    assert "With 1 at once some answers ended before 8 tokens." in it.notes


async def test_a_server_that_ignores_schemas_is_found_out() -> None:
    async with replying(lambda _: chunked(BODY, 40)) as where:
        it = course(Plan(num_rounds=1, parts=("constrained",)))
        await it.run(await find_server(where, "m"))
    assert it.figures.constrained is None
    assert any("did not keep to it" in note for note in it.notes)


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ('{"chapters": [{"title": "a', True),
        ('{\n  "chap', True),
        ("", False),
        ('{"Chapters": [', False),
        ("Sure! {", False),
    ],
)
def test_what_keeps_to_the_schema(text: str, keeps: bool) -> None:
    assert keeps_to_schema(text) is keeps


async def test_a_server_that_refuses_stream_options_is_asked_without() -> None:
    def reply(request: bytes) -> bytes:
        return error("422 No", "no options") if b"stream_options" in request else chunked(TEXT_EVENTS + LAST + DONE, 9)

    async with replying(reply) as where:
        server = await find_server(where, "given")
        assert (server.model, server.gives_usage) == ("given", False)
        it = course(Plan(concurrencies=(2,), num_rounds=1, num_tokens=8, parts=("load",)))
        await it.run(server)
    assert set(it.figures.load) == {2}
    assert any("each piece of text counts as one" in note for note in it.notes)


async def test_a_server_that_drops_connections_under_load_keeps_the_figures_it_gave() -> None:
    num_seen = 0

    def reply(_: bytes) -> bytes:
        nonlocal num_seen
        num_seen += 1
        return chunked(BODY, 40) if num_seen <= 4 else b""

    async with replying(reply) as where:
        server = await find_server(where, "m")
        it = course(Plan(concurrencies=(1, 3), num_rounds=2, num_tokens=5, parts=("load",)))
        await it.run(server)
    assert set(it.figures.load) == {1}
    assert it.notes == [
        "Not measured, or not to the end: 3 at once: the server closed the connection without an answer."
    ]


async def test_the_time_is_bounded() -> None:
    async with replying(lambda _: chunked(BODY, 40)) as where:
        it = course(Plan(max_time_s=0, num_rounds=1))
        await it.run(await find_server(where, "m"))
    assert it.figures.load == {}
    assert "The time was over during: 32 at once." in it.notes


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (with_length(b"{}"), "--model"),
        (with_length(b'{"data":[]}'), "--model"),
        (with_length(b"not json"), "--model"),
        (error("401 Unauthorized", "who?"), "--api-key"),
    ],
)
async def test_a_server_that_names_no_model(reply: bytes, said: str) -> None:
    async with replying(lambda _: reply) as where:
        with pytest.raises(CallFailed, match=said):
            await find_server(where, None)
