"""How much of the memory each model may plan with, where several share it: computed from what is configured."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.room import Limits


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model is expected to need at least; 0 where nothing is known of it."""

    expected_bytes: int
    is_on_demand: bool


def share_bytes(own: Claim, others: Sequence[Claim], limits: Limits) -> int | None:
    """The memory that a model's weights and caches may take; None for a model that has the machine to itself.

    The budget is divided into an area for each pinned model and one for all on demand: each is as large as what it has
    to hold, which in the last is the largest that fits, and has an equal part of what is left over. In the same way the
    last is divided among those on demand: the model itself and, the largest first, those that may be loaded beside it.
    """
    if not others and not limits.is_budget_given:
        return None
    pinned = [one.expected_bytes for one in (own, *others) if not one.is_on_demand]
    guests = [one.expected_bytes for one in (own, *others) if one.is_on_demand]
    rest_bytes = limits.budget_bytes - sum(pinned)
    largest = max((size for size in guests if size <= rest_bytes), default=0)
    part_bytes = max(0, rest_bytes - largest) // (len(pinned) + bool(guests))
    if not own.is_on_demand:
        return own.expected_bytes + part_bytes
    guests.remove(own.expected_bytes)
    return _guest_bytes(own.expected_bytes, guests, largest + part_bytes, limits.max_on_demand)


def _guest_bytes(own_bytes: int, others: Sequence[int], area_bytes: int, num_places: int) -> int:
    spare_bytes, num_parts = area_bytes - own_bytes, 1
    for size in sorted(others, reverse=True):
        if num_parts < num_places and size <= spare_bytes:
            spare_bytes, num_parts = spare_bytes - size, num_parts + 1
    return own_bytes + max(0, spare_bytes) // num_parts
