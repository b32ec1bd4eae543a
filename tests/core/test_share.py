"""What each of several models may plan with."""

from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.room import Limits
from app.core.share import Claim, share_bytes

GIVEN = Limits(3, 100, is_budget_given=True)


def pinned(size: int) -> Claim:
    return Claim(size, is_on_demand=False)


def fleeting(size: int) -> Claim:
    return Claim(size, is_on_demand=True)


def test_a_model_alone_has_the_machine_unless_a_budget_was_given() -> None:
    assert share_bytes(pinned(10), [], Limits(3, 80)) is None
    assert share_bytes(fleeting(10), [], Limits(3, 80)) is None
    assert share_bytes(pinned(10), [], GIVEN) == 100


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (pinned(10), [pinned(30)], 10 + 60 // 2),
        (pinned(10), [fleeting(30)], 10 + 60 // 2),
        # Room for the largest on demand that fits; how many there are besides takes nothing from a pinned one.
        (pinned(10), [fleeting(size) for size in (1, 95, 30, 4)], 10 + 60 // 2),
        (pinned(10), [pinned(20), fleeting(40)], 10 + 30 // 3),
        # Two others may be loaded beside one on demand.
        (fleeting(10), [fleeting(size) for size in (1, 2, 3, 4)], 10 + (90 - 7) // 3),
        (fleeting(10), [pinned(30), fleeting(20)], 10 + (20 + 50 // 2 - 30) // 2),
        # What can never be loaded beside it takes nothing from it.
        (fleeting(60), [fleeting(50), fleeting(30)], 60 + 10 // 2),
        # Of a model that is not on this machine yet nothing is known; it gets a part all the same.
        (fleeting(0), [pinned(40)], 60 // 2),
        # Nor does what does not fit make it less than it is.
        (pinned(70), [pinned(60)], 70),
        (fleeting(70), [pinned(60)], 70),
    ],
)
def test_what_is_left_over_is_divided(own: Claim, others: list[Claim], expected: int) -> None:
    assert share_bytes(own, others, GIVEN) == expected


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(0, 40).map(pinned), max_size=2),
    st.lists(st.integers(0, 100).map(fleeting), max_size=5),
    st.integers(1, 2),
)
def test_nobody_may_plan_with_what_is_anothers(kept: list[Claim], some: list[Claim], most: int) -> None:
    """Pinned models leave room for each that fits; two on demand that fit into it plan with no more."""
    limits = Limits(most, 100, is_budget_given=True)
    every = [*kept, *some]
    shares = {id(one): share_bytes(one, [other for other in every if other is not one], limits) or 0 for one in every}
    area = 100 - sum(shares[id(one)] for one in kept)
    fitting = [one for one in some if sum(other.expected_bytes for other in (one, *kept)) <= 100]
    for company in chain.from_iterable(combinations(fitting, size) for size in range(most + 1)):
        if len(company) == 1:
            assert company[0].expected_bytes <= shares[id(company[0])] <= area
        elif sum(one.expected_bytes for one in company) <= area - len(kept):
            assert sum(shares[id(one)] for one in company) <= area
