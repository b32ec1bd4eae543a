from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.room import Admit, Decision, Evict, Limits, Never, Phase, Resident, Wait, Wish, decide

GIB = 2**30
LIMITS = Limits(max_on_demand=3, budget_bytes=10 * GIB)


def loaded(name: str, gib: float, phase: Phase = "idle", used_at: float = 0.0, *, pinned: bool = False) -> Resident:
    return Resident(name, int(gib * GIB), int(gib * GIB), not pinned, phase, used_at)


def wish(gib: float, *, urgent: bool = False, pinned: bool = False) -> Wish:
    return Wish("new", int(gib * GIB), not pinned, urgent)


def test_there_is_room() -> None:
    assert decide(wish(4), [loaded("a", 3), loaded("b", 3, "busy")], LIMITS) == Admit()


def test_the_one_unused_for_longest_goes() -> None:
    full = [loaded("a", 1, used_at=5), loaded("b", 1, used_at=3), loaded("c", 1, "busy", used_at=1)]
    assert decide(wish(1), full, LIMITS) == Evict(("b",))
    assert decide(wish(1, pinned=True), full, LIMITS) == Admit()


def test_no_more_go_than_have_to() -> None:
    full = [loaded("small", 1, used_at=1), loaded("large", 8, used_at=2)]
    assert decide(wish(2), full, LIMITS) == Evict(("small",))
    assert decide(wish(5), full, LIMITS) == Evict(("large",))
    assert decide(wish(10), full, LIMITS) == Evict(("small", "large"))


@pytest.mark.parametrize("phase", ["busy", "loading"])
def test_who_is_in_use_is_waited_for(phase: Phase) -> None:
    match decide(wish(5), [loaded("a", 4, phase), loaded("p", 3, pinned=True), loaded("c", 0.5)], LIMITS):
        case Wait(reason):
            assert "needs about 5.0 GiB" in reason
            assert "2.5 GiB more than the budget of 10.0 GiB has left while others are in use: 'a'" in reason
        case other:
            pytest.fail(str(other))


def test_who_has_waited_for_long_makes_busy_ones_leave_but_none_that_loads_or_stays() -> None:
    full = [loaded("a", 3, "busy", 2), loaded("b", 3, "busy", 1), loaded("c", 3, "idle", 9)]
    assert decide(wish(4, urgent=True), full, LIMITS) == Evict(("c",))
    assert decide(wish(6, urgent=True), full, LIMITS) == Evict(("c", "b"))
    loading = [loaded("a", 6, "loading"), loaded("p", 2, pinned=True)]
    assert isinstance(decide(wish(4, urgent=True), loading, LIMITS), Wait)


def test_who_leaves_already_is_waited_for() -> None:
    match decide(wish(5), [loaded("a", 6, "leaving"), loaded("b", 1)], LIMITS):
        case Wait(reason):
            assert reason == "'a' must be unloaded first"
        case other:
            pytest.fail(str(other))


def test_two_are_loaded_at_once_only_where_there_is_plenty() -> None:
    assert decide(wish(3), [loaded("a", 4, "loading")], LIMITS) == Admit()
    assert isinstance(decide(wish(4), [loaded("a", 4, "loading")], LIMITS), Wait)
    assert decide(wish(4), [loaded("a", 4, "busy")], LIMITS) == Admit()


def test_what_can_never_fit_is_told_at_once() -> None:
    pinned = loaded("p", 6, "busy", pinned=True)
    match decide(wish(5), [pinned], LIMITS):
        case Never(reason):
            assert "about 5.0 GiB" in reason
            assert "10.0 GiB, of which models that stay loaded take 6.0 GiB" in reason
            assert "--memory-budget" in reason
        case other:
            pytest.fail(str(other))
    # What it has grown to for now says nothing about ever.
    grown = replace(pinned, expected_bytes=GIB)
    assert isinstance(decide(wish(5), [grown], LIMITS), Wait)


def test_places_are_counted_apart_from_bytes() -> None:
    busy = [loaded(name, 1, "busy") for name in "abc"]
    match decide(wish(1), busy, LIMITS):
        case Wait(reason):
            assert reason == "3 on-demand models are in use, as many as --max-loaded-models allows: 'a', 'b', 'c'"
        case other:
            pytest.fail(str(other))


residents = st.lists(
    st.builds(
        Resident,
        st.uuids().map(str),
        st.integers(0, 5),
        st.integers(0, 5),
        st.booleans(),
        st.sampled_from(["loading", "busy", "idle", "leaving"]),
        st.floats(0, 9),
    ),
    max_size=6,
)


@given(residents, st.builds(Wish, st.just("new"), st.integers(0, 12), st.booleans(), st.booleans()))
def test_of_any_house(house: list[Resident], wanted: Wish) -> None:
    limits = Limits(3, 12)

    def fits(others: list[Resident]) -> bool:
        places = sum(one.is_on_demand for one in others) < 3 or not wanted.is_on_demand
        return places and sum(one.num_bytes for one in others) + wanted.num_bytes <= 12

    decision: Decision = decide(wanted, house, limits)
    match decision:
        case Admit():
            assert fits(house)
        case Evict(names):
            victims = [one for one in house if one.name in names]
            assert victims
            assert all(one.is_on_demand and one.phase in ("idle", "busy") for one in victims)
            assert wanted.is_urgent or all(one.phase == "idle" for one in victims)
            after = [one for one in house if one not in victims and one.phase != "leaving"]
            assert fits(after)
            assert not any(fits([*after, one]) for one in victims)
        case Never():
            assert not fits([one for one in house if not one.is_on_demand]) or any(
                one.expected_bytes > one.num_bytes for one in house
            )
        case Wait():
            idle = [one for one in house if one.is_on_demand and one.phase == "idle"]
            kept = [one for one in house if one not in idle and one.phase != "leaving"]
            has_to_wait = any(one.phase in ("leaving", "loading") for one in house)
            assert has_to_wait or not fits(kept)
