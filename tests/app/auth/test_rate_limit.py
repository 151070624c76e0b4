import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from app.auth.rate_limit import KEY_PREFIX, MICROSECONDS, RateLimiter
from tests.support.valkey import Valkey


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    with Redis.from_url(valkey.settings.resolved_redis_url) as client:
        yield client


def test_a_full_bucket_gives_what_it_holds_however_many_ask_at_once(redis: Redis) -> None:
    limiter = RateLimiter(redis, requests_per_minute=20)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: limiter.take("key_a", None), range(30)))
    assert all(answers)
    assert sum(answer is not None and answer.wait_seconds == 0 for answer in answers) == 20
    assert sorted(answer.remaining for answer in answers if answer)[-1] == 19


def test_an_empty_bucket_fills_with_time(redis: Redis) -> None:
    limiter = RateLimiter(redis, requests_per_minute=600)
    seconds, microseconds = redis.time()
    redis.set(KEY_PREFIX + "key_a", seconds * MICROSECONDS + microseconds + 60 * MICROSECONDS)  # full in a minute: empty now
    refused = limiter.take("key_a", None)
    assert refused is not None
    assert 0 < refused.wait_seconds <= 0.1
    assert refused.remaining == 0
    time.sleep(refused.wait_seconds)
    granted = limiter.take("key_a", None)
    assert granted is not None
    assert granted.wait_seconds == 0


def test_a_bucket_that_is_full_again_leaves_nothing_behind(redis: Redis) -> None:
    RateLimiter(redis, requests_per_minute=600).take("key_a", None)
    assert 0 < redis.pttl(KEY_PREFIX + "key_a") <= 100
