"""Whether a model may be loaded now, and who has to go for it: decided from what is loaded, and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["loading", "busy", "idle", "leaving"]


@dataclass(frozen=True, slots=True)
class Limits:
    """So many on-demand models at a time, and so many bytes for all models.

    Who has waited for longer than `patience_s` may make models leave that are in use: they take no new requests, finish
    those that run, and come back when they are asked for. `is_budget_given` where somebody has chosen the budget.
    """

    max_on_demand: int
    budget_bytes: int
    patience_s: float = 10.0
    is_budget_given: bool = False


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that takes room: as many bytes as it was expected to, or more."""

    name: str
    expected_bytes: int
    num_bytes: int
    is_on_demand: bool
    phase: Phase
    used_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that is to be loaded; one that is urgent has waited for long."""

    name: str
    num_bytes: int
    is_on_demand: bool
    is_urgent: bool = False


@dataclass(frozen=True, slots=True)
class Admit:
    """Load it."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload these, then look again."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again when something has changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Never:
    """It does not fit, whoever goes."""

    reason: str


Decision = Admit | Evict | Wait | Never


def decide(wish: Wish, residents: Sequence[Resident], limits: Limits) -> Decision:
    """What to do about a wish. What was used longest ago goes first, and no more of it than has to."""
    pinned_bytes = sum(one.expected_bytes for one in residents if not one.is_on_demand)
    if wish.num_bytes + pinned_bytes > limits.budget_bytes:
        return Never(_never(wish, pinned_bytes, limits))
    if _fits(wish, residents, limits):
        loading = next((one.name for one in residents if one.phase == "loading"), None)
        # Loading takes more for a while than what is loaded: where room is scarce, one after the other.
        if loading and _num_bytes(residents) + 2 * wish.num_bytes > limits.budget_bytes:
            return Wait(f"it is loaded after '{loading}', for memory is short")
        return Admit()
    staying = [one for one in residents if one.phase != "leaving"]
    if _fits(wish, staying, limits):
        return Wait(f"{_names(one for one in residents if one.phase == 'leaving')} must be unloaded first")
    victims = _victims(wish, staying, limits)
    return Evict(tuple(one.name for one in victims)) if victims else Wait(_missing(wish, staying, limits))


def _victims(wish: Wish, staying: Sequence[Resident], limits: Limits) -> list[Resident]:
    """Who has to go so that the wish fits; nobody where that is not enough."""
    phases = ("idle", "busy") if wish.is_urgent else ("idle",)
    candidates = [one for one in staying if one.is_on_demand and one.phase in phases]
    victims: list[Resident] = []
    for candidate in sorted(candidates, key=lambda one: (one.phase == "busy", one.used_at)):
        victims.append(candidate)
        if _fits(wish, _without(staying, victims), limits):
            break
    else:
        return []
    # A large one that came last may have made the small ones before it unnecessary.
    for victim in list(victims):
        others = [one for one in victims if one is not victim]
        if _fits(wish, _without(staying, others), limits):
            victims = others
    return victims


def _without(residents: Sequence[Resident], leaving: Sequence[Resident]) -> list[Resident]:
    return [one for one in residents if one not in leaving]


def _fits(wish: Wish, residents: Sequence[Resident], limits: Limits) -> bool:
    return _has_place(wish, residents, limits) and _num_bytes(residents) + wish.num_bytes <= limits.budget_bytes


def _has_place(wish: Wish, residents: Sequence[Resident], limits: Limits) -> bool:
    return not wish.is_on_demand or sum(one.is_on_demand for one in residents) < limits.max_on_demand


def _num_bytes(residents: Sequence[Resident]) -> int:
    return sum(one.num_bytes for one in residents)


def _never(wish: Wish, pinned_bytes: int, limits: Limits) -> str:
    pinned = f", of which models that stay loaded take {size_text(pinned_bytes)}" if pinned_bytes else ""
    return (
        f"'{wish.name}' needs about {size_text(wish.num_bytes)} of memory, and the budget is"
        f" {size_text(limits.budget_bytes)}{pinned}; raise --memory-budget, or serve a smaller model."
    )


def _missing(wish: Wish, staying: Sequence[Resident], limits: Limits) -> str:
    names = _names(one for one in staying if one.is_on_demand and one.phase != "idle") or "models that stay loaded"
    if not _has_place(wish, staying, limits):
        return f"{limits.max_on_demand} on-demand models are in use, as many as --max-loaded-models allows: {names}"
    missing = _num_bytes(staying) + wish.num_bytes - limits.budget_bytes
    return (
        f"'{wish.name}' needs about {size_text(wish.num_bytes)} of memory, {size_text(missing)} more than the budget of"
        f" {size_text(limits.budget_bytes)} has left while others are in use: {names}"
    )


def _names(residents: Iterable[Resident]) -> str:
    return ", ".join(f"'{one.name}'" for one in residents)


def size_text(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
