"""Limits of API keys: requests and tokens a minute, requests at once."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.allowance import Allowance
from app.core.record import RequestRecord
from app.settings import AccessKey


class LimitsMiddleware:
    """Refuses what a key has no allowance for, before a body is read. Raises RateLimited.

    Counted is every POST: these are the requests that models work for. Tokens are taken off as they become known, so
    that a key may overdraw its allowance once and then waits until that is made up for.
    """

    def __init__(self, app: ASGIApp, keys: tuple[AccessKey, ...]) -> None:
        self._app = app
        self._allowances = {key.name: Allowance(key) for key in keys if _is_limited(key)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowance = self._allowance_of(scope)
        if allowance is None:
            await self._app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        record.allowance = allowance
        allowance.enter(time.monotonic())
        spent = 0

        # The record is another one when the work goes on in the background.
        def charge(used: RequestRecord) -> None:
            nonlocal spent
            num_tokens = max(spent, used.num_tokens)
            allowance.spend(num_tokens - spent, time.monotonic())
            spent = num_tokens

        def settle(used: RequestRecord) -> None:
            charge(used)
            allowance.leave()

        async def send_charged(message: Message) -> None:
            charge(record)
            await send(message)

        record.watchers.append(settle)
        await self._app(scope, receive, send_charged)

    def _allowance_of(self, scope: Scope) -> Allowance | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        record: RequestRecord = scope["state"]["record"]
        return None if record.key_name is None else self._allowances.get(record.key_name)


def _is_limited(key: AccessKey) -> bool:
    return any((key.requests_per_minute, key.tokens_per_minute, key.max_concurrency))
