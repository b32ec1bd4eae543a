"""The clients of a soak: each asks one thing after the other, and hangs up now and then at any moment."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.bench.call import Call, open_call
from app.bench.endpoint import CallFailed, Endpoint
from app.bench.prompts import Prompts
from bench.soak.cases import Case, fresh, stopped
from bench.soak.judge import faults
from bench.soak.reply import Reply, read_reply

_SHARE_OF_FRESH = 0.1
_SHARE_OF_HANG_UPS = 0.12
_SHARE_OF_BURSTS = 0.01
_BURST = 24
# Seconds until a client hangs up: before the request is read, while it waits or is prefilled, while it is answered.
_LONGEST_PATIENCE_S = (0.0, 0.005, 0.05, 0.5)
_MOST_FAULTS = 20


@dataclass(slots=True)
class Tally:
    """What happened so far, by kind of request; `faults` are the first ones."""

    answered: Counter[str] = field(default_factory=Counter[str])
    hung_up: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    faults: list[str] = field(default_factory=list[str])

    def note(self, kind: str, found: Sequence[str]) -> None:
        """A reply that was judged."""
        self.answered[kind] += 1
        self.wrong[kind] += bool(found)
        self.faults += found[: max(0, _MOST_FAULTS - len(self.faults))]


class Clients:
    """Many clients of one server. Owned by the event loop's thread."""

    def __init__(self, to: Endpoint, cases: Sequence[Case], seed: int) -> None:
        self.tally = Tally()
        self._to = to
        self._cases = list(cases)
        self._seed = seed
        self._prompts = Prompts(seed + 1)
        # The answers that were given alone.
        self._alone: dict[Case, Sequence[str]] = {}

    async def ask_alone(self) -> None:
        """Ask every case with nobody beside it: the first time to know the answer, later to see whether it still is."""
        draw = random.Random(self._seed)
        for case in list(self._cases):
            reply = await self._judged(case, streams=False)
            if case.repeats and case not in self._alone and reply.status == 200:
                self._alone[case] = reply.texts
                if case.kind == "plain" and reply.texts[0]:
                    self._add_stopped(case, reply.texts[0], draw)

    async def run(self, count: int, end_s: float) -> None:
        """So many clients at once, until `end_s` of `time.monotonic`."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._ask_on(random.Random(self._seed + number), end_s))

    def _add_stopped(self, plain: Case, text: str, draw: random.Random) -> None:
        case, expected = stopped(plain, text, draw)
        self._cases.append(case)
        self._alone[case] = [expected]

    async def _ask_on(self, draw: random.Random, end_s: float) -> None:
        while time.monotonic() < end_s:
            case = fresh(self._prompts) if draw.random() < _SHARE_OF_FRESH else draw.choice(self._cases)
            if draw.random() < _SHARE_OF_BURSTS:
                await asyncio.gather(*(self._hang_up(case, draw) for _ in range(_BURST)))
            elif draw.random() < _SHARE_OF_HANG_UPS:
                await self._hang_up(case, draw)
            else:
                await self._judged(case, streams=draw.random() < 0.5)

    async def _hang_up(self, case: Case, draw: random.Random) -> None:
        try:
            call = await self._open(case, streams=draw.random() < 0.7)
        except CallFailed as failure:
            self.tally.note(case.kind, [f"{case.kind}: {failure}"])
            return
        await asyncio.sleep(draw.random() * draw.choice(_LONGEST_PATIENCE_S))
        call.hang_up()
        self.tally.hung_up[case.kind] += 1

    async def _judged(self, case: Case, *, streams: bool) -> Reply:
        """Ask, wait and judge."""
        try:
            call = await self._open(case, streams=streams)
            try:
                await call.wait()
            finally:
                call.hang_up()
        except CallFailed as failure:
            self.tally.note(case.kind, [f"{case.kind}: {failure}"])
            return Reply(0)
        reply = read_reply(call, streams=streams)
        self.tally.note(case.kind, faults(case, reply, self._alone.get(case)))
        if reply.usage is not None:
            self.tally.num_tokens += reply.usage["completion_tokens"]
            self.tally.num_prompt_tokens += reply.usage["prompt_tokens"]
            self.tally.num_cached_tokens += reply.usage["prompt_tokens_details"]["cached_tokens"]
        return reply

    async def _open(self, case: Case, *, streams: bool) -> Call:
        return await open_call(self._to, "POST", "/chat/completions", case.request(streams=streams))
