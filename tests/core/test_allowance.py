"""What a key may still use."""

import pytest
from pydantic import SecretStr

from app.core.allowance import Allowance, Bucket
from app.errors import RateLimited
from app.settings import AccessKey


def allowance(requests: int | None = None, tokens: int | None = None, at_once: int | None = None) -> Allowance:
    limits = {"requests_per_minute": requests, "tokens_per_minute": tokens, "max_concurrency": at_once}
    return Allowance(AccessKey.model_validate({"name": "alice", "key": SecretStr("sk-alice"), **limits}))


def refusal(refused: Allowance, now: float) -> RateLimited:
    num_running = refused.num_running
    with pytest.raises(RateLimited) as caught:
        refused.enter(now)
    assert refused.num_running == num_running
    assert "sk-alice" not in caught.value.message
    return caught.value


class TestBucket:
    def test_fills_evenly_up_to_its_limit(self) -> None:
        filled = Bucket(60)
        filled.take(30, 1000)
        assert [filled.level(now) for now in (1000, 1010, 1030, 2000)] == [30, 40, 60, 60]

    def test_can_be_overdrawn_and_then_takes_longer(self) -> None:
        filled = Bucket(60)
        filled.take(90, 1000)
        assert filled.level(1000) == -30
        assert (filled.wait_s(1, 1000), filled.wait_s(60, 1000)) == (31, 90)
        assert filled.wait_s(1, 1031) == 0


class TestAllowance:
    def test_lets_as_many_requests_in_as_there_are(self) -> None:
        limited = allowance(requests=2)
        start = 1e9
        limited.enter(start)
        limited.enter(start)
        error = refusal(limited, start)
        assert error.status == 429
        assert error.retry_after_s == 30
        assert "2 requests a minute" in error.message
        refusal(limited, start + 29)
        limited.enter(start + 30)

    def test_counts_tokens_when_they_are_known(self) -> None:
        limited = allowance(tokens=600)
        start = 1e9
        limited.enter(start)
        limited.spend(700, start)
        error = refusal(limited, start)
        assert error.retry_after_s == pytest.approx(10.1)
        assert "600 tokens a minute" in error.message
        limited.enter(start + 10.2)

    def test_lets_the_next_in_when_one_has_left(self) -> None:
        limited = allowance(requests=100, at_once=1)
        limited.enter(1e9)
        assert "1 requests running" in refusal(limited, 1e9).message
        limited.leave()
        limited.enter(1e9)

    def test_a_refused_request_uses_up_nothing(self) -> None:
        limited = allowance(requests=1, tokens=10)
        assert limited.requests is not None
        limited.spend(20, 1e9)
        for _ in range(3):
            refusal(limited, 1e9)
        assert limited.requests.level(1e9) == 1

    def test_without_limits_everything_may_be_used(self) -> None:
        limited = allowance()
        limited.spend(10**9, 1e9)
        for _ in range(1000):
            limited.enter(1e9)
