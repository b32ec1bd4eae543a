"""What a token costs by place, beside a model that costs nothing: from stopwatches in the server and its worker."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.bench.call import Call
from app.bench.endpoint import CallFailed
from app.bench.figures import CostFigures
from app.bench.prompts import Prompts
from app.bench.server import Server, asking
from app.bench.stream import read_stream
from bench.stopwatch import Reading, read

# Pieces of text until a stream runs evenly, those that are then measured, and the most there may be.
_PIECES_BEFORE: Final = 8
_PIECES_MEASURED: Final = 256
_MOST_TOKENS: Final = 4096
_POLL_S: Final = 0.01
# What a server needs to notice that its clients are gone.
_SETTLE_S: Final = 0.3
_US: Final = 1e6


@dataclass(frozen=True, slots=True)
class _Moment:
    """All processes at about the same time; the client is this one."""

    worker: Reading
    server: Reading
    client_s: float
    client_cpu_s: float


async def measure(server: Server, prompts: Prompts, directory: Path, count: int) -> CostFigures:
    """One round: so many streams at once, from when all run until one has brought enough.

    `directory` is where the server's stopwatches write. Errors: CallFailed.
    """
    calls: list[Call] = []
    try:
        calls += await asyncio.gather(*(server.begin(asking(text), _MOST_TOKENS) for text in prompts.stories(count)))
        for call in calls:
            await _wait(call, _PIECES_BEFORE)
        before = _now(directory)
        await _wait(calls[0], len(calls[0].pieces) + _PIECES_MEASURED)
        after = _now(directory)
        if any(call.is_over for call in calls):
            raise CallFailed("a stream ended while it was measured")
    finally:
        for call in calls:
            call.hang_up()
    figures = _figures(before, after, _parsing_us(calls))
    await asyncio.sleep(_SETTLE_S)
    return figures


def middle_of(rounds: Sequence[CostFigures]) -> CostFigures:
    """The round that took neither longest nor shortest: medians of each figure would not make up a whole."""
    return sorted(rounds, key=lambda one: one.wall_us)[len(rounds) // 2]


async def _wait(call: Call, num_pieces: int) -> None:
    """Without a task that every arrival wakes: that would be the client's cost."""
    while len(call.pieces) < num_pieces:
        if call.is_over:
            raise CallFailed("a stream ended before it could be measured")
        await asyncio.sleep(_POLL_S)


def _now(directory: Path) -> _Moment:
    return _Moment(read(directory, "worker"), read(directory, "server"), time.perf_counter(), time.process_time())


def _parsing_us(calls: Sequence[Call]) -> float:
    """Reading what has come: server-sent events, JSON and text."""
    started_s = time.thread_time()
    num_tokens = sum(read_stream(call, may_be_cut=True).num_tokens for call in calls)
    return (time.thread_time() - started_s) / num_tokens * _US


def _figures(before: _Moment, after: _Moment, parsing_us: float) -> CostFigures:
    worker, server = _between(before.worker, after.worker), _between(before.server, after.server)
    if not worker.count or not server.now_s:
        raise CallFailed("nothing was generated while it was measured")
    per_token = _US / worker.count
    wall_us = worker.now_s * per_token
    # The server is read at other moments than the worker: what counts is its work per second.
    of_server = wall_us / server.now_s
    client_cpu_us = (after.client_cpu_s - before.client_cpu_s) / (after.client_s - before.client_s) * wall_us
    return CostFigures(
        wall_us=wall_us,
        cpu_us=worker.cpu_s * per_token + server.cpu_s * of_server + client_cpu_us,
        step_wall_us=worker.inner_s * per_token,
        step_cpu_us=worker.inner_cpu_s * per_token,
        engine_wall_us=(worker.outer_s - worker.inner_s) * per_token,
        engine_cpu_us=(worker.outer_cpu_s - worker.inner_cpu_s) * per_token,
        frames_wall_us=(worker.now_s - worker.outer_s) * per_token,
        frames_cpu_us=(worker.main_cpu_s - worker.outer_cpu_s) * per_token,
        model_threads_cpu_us=(worker.cpu_s - worker.main_cpu_s) * per_token,
        server_frames_cpu_us=server.outer_cpu_s * of_server,
        server_encoding_cpu_us=server.inner_cpu_s * of_server,
        server_loop_cpu_us=(server.cpu_s - server.outer_cpu_s - server.inner_cpu_s) * of_server,
        client_cpu_us=client_cpu_us,
        client_parsing_cpu_us=parsing_us,
    )


def _between(before: Reading, after: Reading) -> Reading:
    """What was added."""
    return Reading(
        now_s=after.now_s - before.now_s,
        cpu_s=after.cpu_s - before.cpu_s,
        main_cpu_s=after.main_cpu_s - before.main_cpu_s,
        outer_s=after.outer_s - before.outer_s,
        outer_cpu_s=after.outer_cpu_s - before.outer_cpu_s,
        inner_s=after.inner_s - before.inner_s,
        inner_cpu_s=after.inner_cpu_s - before.inner_cpu_s,
        count=after.count - before.count,
    )
