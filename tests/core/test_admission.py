import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.admission import Admission
from app.errors import QueueFull, QueueTimeout, ShuttingDown


@dataclass
class Guest:
    """Somebody who wants a slot, and keeps it until told to go."""

    admission: Admission
    client: str
    number: int
    entered: list[int]
    may_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def visit(self) -> None:
        async with self.admission.slot(self.client):
            self.entered.append(self.number)
            await self.may_go.wait()


class House:
    """An admission with guests; `entered` is the order in which they got their slots."""

    def __init__(self, num_slots: int = 1, queue_size: int = 100, queue_timeout_s: float = 100) -> None:
        self.admission = Admission(queue_size, queue_timeout_s)
        self.admission.open(num_slots)
        self.entered: list[int] = []
        self.guests: list[Guest] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def arrive(self, client: str = "a") -> int:
        number = self.send(client)
        await settle()
        return number

    def send(self, client: str = "a") -> int:
        """Have a guest arrive when the loop is next run."""
        number = len(self.guests)
        self.guests.append(Guest(self.admission, client, number, self.entered))
        self.tasks.append(asyncio.create_task(self.guests[number].visit()))
        return number

    async def leave(self, number: int) -> None:
        self.guests[number].may_go.set()
        await settle()

    async def cancel(self, number: int) -> None:
        self.tasks[number].cancel()
        await settle()

    def load(self) -> tuple[int, int]:
        return self.admission.num_active, self.admission.num_waiting


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(6):
        await asyncio.sleep(0)


@asynccontextmanager
async def house(num_slots: int = 1, queue_size: int = 100, queue_timeout_s: float = 100) -> AsyncGenerator[House]:
    """Everybody has gone at the end, and nothing of them is left."""
    built = House(num_slots, queue_size, queue_timeout_s)
    yield built
    for guest in built.guests:
        guest.may_go.set()
    built.admission.open(1)
    await asyncio.gather(*built.tasks, return_exceptions=True)
    assert built.load() == (0, 0)
    assert not built.admission._lanes


async def test_slots_are_taken_at_once_and_the_next_one_waits() -> None:
    async with house(num_slots=2) as it:
        for _ in range(3):
            await it.arrive()
        assert (it.entered, it.load()) == ([0, 1], (2, 1))
        await it.leave(1)
        assert (it.entered, it.load()) == ([0, 1, 2], (2, 0))
        assert it.admission.counts.completed == 1
        assert it.admission.counts.num_waited == 1
        assert it.admission.counts.max_wait_s == it.admission.counts.total_wait_s > 0


async def test_one_client_is_served_in_order() -> None:
    async with house() as it:
        for _ in range(5):
            await it.arrive()
        for number in range(5):
            await it.leave(number)
        assert it.entered == [0, 1, 2, 3, 4]


async def test_clients_take_turns() -> None:
    async with house() as it:
        for client in "aaaabbc":
            await it.arrive(client)
        for number in (0, 1, 4, 6, 2, 5, 3):
            assert it.entered[-1] == number
            await it.leave(number)


async def test_full_line_turns_away_at_once() -> None:
    async with house(num_slots=2, queue_size=3) as it:
        for _ in range(5):
            await it.arrive()
        with pytest.raises(QueueFull, match="All 2 slots are busy and 3 requests wait") as caught:
            async with it.admission.slot("b"):
                pass
        assert caught.value.retry_after_s == 2
        assert it.admission.counts.rejected == 1
        await it.cancel(4)
        await it.arrive("b")
        assert it.load() == (2, 3)


async def test_no_line_at_all_is_possible() -> None:
    async with house(queue_size=0) as it:
        await it.arrive()
        with pytest.raises(QueueFull):
            async with it.admission.slot("a"):
                pass


async def test_long_wait_ends() -> None:
    async with house(queue_timeout_s=0.01) as it:
        await it.arrive()
        with pytest.raises(QueueTimeout, match=r"0\.01 s") as caught:
            async with it.admission.slot("a"):
                pass
        assert caught.value.retry_after_s is not None
        assert it.load() == (1, 0)
        assert it.admission.counts.timed_out == 1


async def test_slot_granted_to_one_who_leaves_goes_to_the_next() -> None:
    async with house() as it:
        for _ in range(3):
            await it.arrive()
        # In one go: the slot is granted to 1, who is cancelled before it can take it.
        it.guests[0].may_go.set()
        await asyncio.sleep(0)
        it.tasks[1].cancel()
        await settle()
        assert it.entered == [0, 2]
        assert it.load() == (1, 0)
        assert it.admission.counts.cancelled == 1


async def test_who_comes_while_others_are_let_in_finds_the_slot_that_is_still_free() -> None:
    async with house(num_slots=2) as it:
        for _ in range(3):
            await it.arrive()
        # In one go: both slots come free, 2 is given one and has not noticed yet.
        it.guests[0].may_go.set()
        it.guests[1].may_go.set()
        it.send()
        await settle()
        assert sorted(it.entered) == [0, 1, 2, 3]
        assert it.load() == (2, 0)


async def test_who_has_been_given_a_slot_takes_no_place_in_the_line() -> None:
    async with house(num_slots=2, queue_size=1) as it:
        for _ in range(3):
            await it.arrive()
        it.guests[0].may_go.set()
        it.send()
        await settle()
        assert it.admission.counts.rejected == 0
        assert it.load() == (2, 1)


async def test_closed_line_waits_and_opens_again() -> None:
    async with house() as it:
        await it.arrive()
        it.admission.close()
        await it.leave(0)
        await it.arrive()
        assert it.load() == (0, 1)
        it.admission.open(1)
        await settle()
        assert it.entered == [0, 1]


async def test_all_waits_can_be_ended() -> None:
    async with house() as it:
        for client in "aab":
            await it.arrive(client)
        it.admission.fail_waiting(ShuttingDown("Bye."))
        await settle()
        assert [type(task.exception()) for task in it.tasks[1:]] == [ShuttingDown, ShuttingDown]
        assert it.load() == (1, 0)
        assert it.admission.counts.failed == 2


@pytest.mark.parametrize(
    ("error", "counted"), [(None, "completed"), (ShuttingDown("x"), "failed"), (asyncio.CancelledError(), "cancelled")]
)
async def test_every_end_is_counted(error: BaseException | None, counted: str) -> None:
    admission = Admission(1, 1)
    admission.open(1)

    async def run() -> None:
        async with admission.slot("a"):
            if error is not None:
                raise error

    await asyncio.gather(asyncio.create_task(run()), return_exceptions=True)
    counts = {name: getattr(admission.counts, name) for name in ("completed", "failed", "cancelled")}
    assert counts == dict.fromkeys(counts, 0) | {counted: 1}
    assert admission.num_active == 0


# What is done, to whom, and whether the loop is run after it.
Step = tuple[str, int, bool]
WHAT = st.sampled_from(["arrive", "leave", "cancel", "open", "close", "fail"])
STEPS = st.lists(st.tuples(WHAT, st.integers(0, 9), st.booleans()))


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_no_slot_is_lost(steps: list[Step]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[Step]) -> None:
    async with house(num_slots=2, queue_size=4) as it:
        for what, number, settles in [*steps, ("", 0, True)]:
            match what:
                case "arrive":
                    it.send("abc"[number % 3])
                case "leave" if it.guests:
                    it.guests[number % len(it.guests)].may_go.set()
                case "cancel" if it.guests:
                    it.tasks[number % len(it.guests)].cancel()
                case "open":
                    it.admission.open(number % 3 + 1)
                case "close":
                    it.admission.close()
                case "fail":
                    it.admission.fail_waiting(ShuttingDown("Bye."))
                case _:
                    pass
            if not settles:
                continue
            await settle()
            inside = [guest for guest, task in zip(it.guests, it.tasks, strict=True) if not task.done()]
            active = sum(guest.number in it.entered for guest in inside)
            assert it.load() == (active, len(inside) - active)
            assert it.admission.num_waiting <= 4
            # Nobody waits in front of a free slot.
            assert not it.admission.num_waiting or active >= it.admission.num_slots
            for client in "abc":
                # Who still waits has come after all who were let in.
                waiting = [one.number for one in inside if one.client == client and one.number not in it.entered]
                entered = [number for number in it.entered if it.guests[number].client == client]
                assert max(entered, default=-1) < min(waiting, default=len(it.guests))
