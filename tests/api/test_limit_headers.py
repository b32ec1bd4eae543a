"""What is left of an allowance, as each protocol's clients read it."""

import re
import time
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from app.api.limit_headers import OPENAI_NAMES, anthropic_limit_headers, openai_limit_headers
from app.core.allowance import Allowance
from app.settings import AccessKey


def allowance(**limits: int) -> Allowance:
    return Allowance(AccessKey.model_validate({"name": "alice", "key": SecretStr("k"), **limits}))


@pytest.mark.parametrize(
    ("spent", "remaining", "reset"),
    [
        (0, "600", "0ms"),
        (5, "595", r"(4[89]\d|500)ms"),
        (90, "510", "9s"),
        (1200, "0", "2m0s"),
        (1300, "0", "2m10s"),
    ],
)
def test_openai(spent: int, remaining: str, reset: str) -> None:
    limited = allowance(requests_per_minute=3, tokens_per_minute=600)
    limited.spend(spent, time.monotonic())
    headers = openai_limit_headers(limited)
    assert set(headers) == set(OPENAI_NAMES)
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("3", "3")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("600", remaining)
    assert re.fullmatch(reset, headers["x-ratelimit-reset-tokens"])


def test_anthropic() -> None:
    limited = allowance(requests_per_minute=2)
    limited.enter(time.monotonic())
    headers = anthropic_limit_headers(limited)
    assert headers.keys() == {f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")}
    assert (headers["anthropic-ratelimit-requests-limit"], headers["anthropic-ratelimit-requests-remaining"]) == (
        "2",
        "1",
    )
    reset = headers["anthropic-ratelimit-requests-reset"]
    assert reset.endswith("Z")
    assert 25 < (datetime.fromisoformat(reset) - datetime.now(UTC)).total_seconds() <= 30


def test_what_has_no_limit_is_not_told() -> None:
    assert openai_limit_headers(allowance(max_concurrency=1)) == {}
    assert set(openai_limit_headers(allowance(tokens_per_minute=1))) == {
        f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")
    }
