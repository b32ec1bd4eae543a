"""The room that loaded models share: who wants in waits here, and who is idle leaves for them."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from app.core.room import Admit, Decision, Evict, Limits, Never, Phase, Resident, Wait, Wish, decide
from app.core.share import Claim, share_bytes
from app.errors import ModelLoadError

# How much memory the workers take changes without a word.
_LOOK_S = 1.0
# What reading the heads of the other models' files may take, before a model is loaded without knowing them.
_KNOWING_S = 5.0


class Tenant(Protocol):
    """A model, as far as its room is concerned."""

    waits_for: str | None

    @property
    def name(self) -> str: ...
    @property
    def is_on_demand(self) -> bool: ...
    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it to be loaded."""
        ...

    @property
    def phase(self) -> Phase: ...
    @property
    def used_at(self) -> float: ...
    @property
    def expected_bytes(self) -> int: ...
    @property
    def resident_bytes(self) -> int: ...
    @property
    def is_known(self) -> asyncio.Event:
        """Set when its files were looked at, so that `expected_bytes` says what can be known."""
        ...

    def begin_unload(self, why: str) -> None:
        """Take no new requests, and end the worker when the last one is through; nothing where it is wanted."""

    def stay(self) -> None:
        """Take new requests again, where requests still hold up the unloading."""


@dataclass(slots=True, eq=False)
class _Ticket:
    tenant: Tenant
    since: float
    victims: list[Tenant] = field(default_factory=list[Tenant])
    stirred: asyncio.Event = field(default_factory=asyncio.Event)


class Residency:
    """Who is loaded and who waits to be. Owned by the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._tenants: list[Tenant] = []
        self._looking: asyncio.Task[None] | None = None
        self._residents: list[Tenant] = []
        self._line: list[_Ticket] = []

    def add(self, tenant: Tenant) -> None:
        """From now on there is this model, loaded or not."""
        self._tenants.append(tenant)

    def remove(self, tenant: Tenant) -> None:
        """The model is no longer there."""
        if tenant in self._tenants:
            self._tenants.remove(tenant)

    def wait_for(self, looking: asyncio.Task[None]) -> None:
        """Divide the memory when this is done, which may find more models."""
        self._looking = looking

    async def share_bytes(self, tenant: Tenant) -> int | None:
        """What a model that is loaded now may plan with; None where it has the machine to itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_KNOWING_S):
                if self._looking is not None:
                    await asyncio.wait([self._looking])
                for one in list(self._tenants):
                    await one.is_known.wait()
        others = [_claim(one) for one in self._tenants if one is not tenant]
        return share_bytes(_claim(tenant), others, self.limits)

    async def enter(self, tenant: Tenant) -> bool:
        """Wait for room and take it, making others leave; False where nobody wants the model any more.

        While it waits, `tenant.waits_for` says for what. Errors: ModelLoadError when it can never fit.
        """
        ticket = _Ticket(tenant, time.monotonic())
        self._line.append(ticket)
        is_in = False
        try:
            while not is_in and tenant.is_wanted:
                is_in = self._try(ticket)
                if not is_in:
                    await _next_look(ticket)
        finally:
            tenant.waits_for = None
            self._line.remove(ticket)
            if not is_in:
                for victim in ticket.victims:
                    victim.stay()
            self.stir()
        return is_in

    def leave(self, tenant: Tenant) -> None:
        """Give the room back."""
        self._residents.remove(tenant)
        self.stir()

    def stir(self) -> None:
        """Something has changed: those who wait look again, in their order."""
        for ticket in self._line:
            ticket.stirred.set()

    def _try(self, ticket: _Ticket) -> bool:
        tenant = ticket.tenant
        match self._decision(ticket):
            case Admit():
                self._residents.append(tenant)
                return True
            case Evict(names):
                tenant.waits_for = f"{', '.join(map(repr, names))} must be unloaded first"
                for victim in [one for one in self._residents if one.name in names]:
                    ticket.victims.append(victim)
                    victim.begin_unload(f"to make room for {tenant.name}")
            case Wait(reason):
                tenant.waits_for = reason
            case Never(reason):
                raise ModelLoadError(reason)
        return False

    def _decision(self, ticket: _Ticket) -> Decision:
        now = time.monotonic()
        tenant = ticket.tenant
        for other in self._line[: self._line.index(ticket)]:
            # Who is ahead may be passed by smaller ones, but not for long.
            if now - other.since > self.limits.patience_s:
                return Wait(f"it is the turn of '{other.tenant.name}'")
        is_urgent = now - ticket.since > self.limits.patience_s
        wish = Wish(tenant.name, tenant.expected_bytes, tenant.is_on_demand, is_urgent)
        return decide(wish, [_seen(one) for one in self._residents], self.limits)


def _claim(tenant: Tenant) -> Claim:
    return Claim(tenant.expected_bytes, tenant.is_on_demand)


def _seen(tenant: Tenant) -> Resident:
    expected = tenant.expected_bytes
    return Resident(
        tenant.name,
        expected,
        max(expected, tenant.resident_bytes),
        tenant.is_on_demand,
        tenant.phase,
        tenant.used_at,
    )


async def _next_look(ticket: _Ticket) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            await ticket.stirred.wait()
    ticket.stirred.clear()
