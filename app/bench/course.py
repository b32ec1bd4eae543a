"""The measurements in their order, round by round, within a bounded time."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from app.bench import scenarios
from app.bench.endpoint import CallFailed
from app.bench.figures import Figures, LoadFigures, LoadRound, PrefixFigures, load_figures, median_of
from app.bench.plan import Plan
from app.bench.prompts import Prompts
from app.bench.scenarios import Conversation
from app.bench.server import Server

Measured = TypeVar("Measured")


class Library(Protocol):
    """The library alone, which takes turns with the server."""

    def load(self, texts: Sequence[str], num_tokens: Sequence[int]) -> LoadFigures:
        """The same job as the server's, each answer as long as the server's was. Errors: CallFailed."""
        ...


class Course:
    """Takes the measurements; what cannot be measured becomes a note. Owned by the event loop's thread."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.figures = Figures()
        self.notes: list[str] = []
        self._plan = plan
        self._say = say
        self._prompts = Prompts()
        self._deadline_s = time.monotonic() + plan.max_time_s

    async def run(self, server: Server, library: Library | None = None) -> None:
        """Everything but the prefix cache, which another server of the same run may have."""
        if not server.gives_usage:
            self.note("The server does not say how many tokens it sends: each piece of text counts as one.")
        if "load" in self._plan.parts:
            for count in self._plan.concurrencies:
                once = partial(self._load_round, server, library, count)
                if measured := await self.rounds(f"{count} at once", once):
                    self.figures.load[count] = measured
        if "interference" in self._plan.parts:
            once = partial(scenarios.interference, server, self._prompts)
            self.figures.interference = await self.rounds("a long prompt beside a stream", once)
        if "constrained" in self._plan.parts:
            once = partial(scenarios.constrained, server, self._prompts, self._plan.num_tokens)
            self.figures.constrained = await self.rounds("constrained decoding", once)

    async def prefix(self, server: Server) -> None:
        """Second turns of conversations."""
        once = partial(scenarios.prefix, server, self._prompts)
        self.figures.prefix = await self.rounds("prefix cache", once)

    async def begin_conversations(self, server: Server) -> list[Conversation]:
        """First turns, one for each round, before the server is started again."""
        begun: list[Conversation] = []

        async def once() -> None:
            begun.append(await scenarios.first_turn(server, self._prompts))

        await self.rounds("conversations to go on with after a restart", once)
        return begun

    async def continue_conversations(self, server: Server, begun: Sequence[Conversation]) -> None:
        """Their second turns, after it was."""
        waiting = iter(begun)

        async def once() -> PrefixFigures:
            return await scenarios.second_turn(server, self._prompts, next(waiting))

        if len(begun) > self._plan.num_rounds:
            self.figures.prefix_after_restart = await self.rounds("prefix cache after a restart", once)

    async def rounds(
        self,
        title: str,
        once: Callable[[], Awaitable[Measured]],
        middle_of: Callable[[Sequence[Measured]], Measured] = median_of,
    ) -> Measured | None:
        """Medians over the rounds; of those there were, when a later one fails or the time is over."""
        done: list[Measured] = []
        for number in range(self._plan.num_rounds + 1):
            self._say(f"{title}: round {number} of {self._plan.num_rounds}")
            if time.monotonic() > self._deadline_s:
                self.note(f"The time was over during: {title}.")
                break
            try:
                done.append(await once())
            except CallFailed as failure:
                self.note(f"Not measured, or not to the end: {title}: {failure}.")
                break
        return middle_of(done[1:]) if len(done) > 1 else None

    def note(self, sentence: str) -> None:
        """Something to know when reading the figures; said once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    async def _load_round(self, server: Server, library: Library | None, count: int) -> LoadRound:
        texts = self._prompts.stories(count)
        streams = await scenarios.gather(server, texts, self._plan.num_tokens)
        if any(stream.num_tokens < self._plan.num_tokens for stream in streams):
            self.note(f"With {count} at once some answers ended before {self._plan.num_tokens} tokens.")
        theirs = library.load(texts, [stream.num_tokens for stream in streams]) if library else None
        return LoadRound(load_figures(streams), theirs)
