import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from app.auth.rate_limit import (
    KEY_PREFIX,
    MICROSECONDS,
    TOKENS_PREFIX,
    Allowance,
    RateLimiter,
    Rates,
)
from tests.support.valkey import Valkey


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    with Redis.from_url(valkey.settings.resolved_redis_url) as client:
        yield client


def limiter_of(
    redis: Redis, requests_per_minute: int = 6000, tokens_per_minute: int = 6000
) -> RateLimiter:
    return RateLimiter(redis, requests_per_minute, tokens_per_minute)


def take(limiter: RateLimiter, key_id: str = "key_a") -> Rates:
    rates = limiter.take(key_id, None)
    assert rates is not None
    return rates


def test_a_full_bucket_gives_what_it_holds_however_many_ask_at_once(redis: Redis) -> None:
    limiter = limiter_of(redis, requests_per_minute=20)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: take(limiter).requests, range(30)))
    assert sum(answer.wait_seconds == 0 for answer in answers) == 20
    assert max(answer.remaining for answer in answers) == 19


def test_an_empty_bucket_fills_with_time(redis: Redis) -> None:
    limiter = limiter_of(redis, requests_per_minute=30)
    seconds, microseconds = redis.time()
    # full in a minute: empty now
    redis.set(KEY_PREFIX + "key_a", seconds * MICROSECONDS + microseconds + 60 * MICROSECONDS)
    refused = take(limiter).requests
    assert 0 < refused.wait_seconds <= 2
    assert refused.remaining == 0
    time.sleep(refused.wait_seconds)
    assert take(limiter).requests.wait_seconds == 0


def test_a_bucket_that_is_full_again_leaves_nothing_behind(redis: Redis) -> None:
    limiter_of(redis, requests_per_minute=6).take("key_a", None)
    assert 0 < redis.pttl(KEY_PREFIX + "key_a") <= 10_000


def test_more_tokens_than_the_bucket_holds_are_counted(redis: Redis) -> None:
    limiter = limiter_of(redis, tokens_per_minute=6000)
    untouched = take(limiter).tokens
    assert untouched == Allowance("tokens", 6000, 6000, 0, 0)
    some = limiter.use_tokens("key_a", 1000)
    assert some is not None
    assert (some.remaining, some.wait_seconds) == (5000, 0)
    assert some.headers["x-ratelimit-reset-tokens"] == "10.000s"
    too_many = limiter.use_tokens("key_a", 8000)
    assert too_many is not None
    assert too_many.remaining == 0
    assert 29 < too_many.wait_seconds <= 30.01  # for the 3000 that are missing, and one
    again = take(limiter).tokens
    assert 0 < too_many.wait_seconds - again.wait_seconds < 5, "asking costs nothing"
    assert take(limiter, "key_b").tokens == untouched
    assert redis.pttl(TOKENS_PREFIX + "key_a") <= 90_000


def test_tokens_are_given_back(redis: Redis) -> None:
    limiter = limiter_of(redis, tokens_per_minute=6000)
    limiter.use_tokens("key_a", 3000)
    some = limiter.use_tokens("key_a", -1000)
    assert some is not None
    assert 4000 <= some.remaining < 4500
    full = limiter.use_tokens("key_a", -5000)
    assert full == take(limiter).tokens == Allowance("tokens", 6000, 6000, 0, 0), (
        "no more than it holds"
    )


def test_tokens_may_be_many(redis: Redis) -> None:
    limiter = limiter_of(redis, tokens_per_minute=1_000_000_000)
    used = limiter.use_tokens("key_a", 600_000_000)
    assert used is not None
    assert used.remaining == pytest.approx(400_000_000, rel=0.1)
    assert used.wait_seconds == 0
