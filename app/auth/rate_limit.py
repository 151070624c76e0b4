"""One token bucket per API key, in Redis, so that it counts what all API processes serve together.

A bucket is one number: the moment at which it will be full again. Without Redis nobody is refused.
"""

import math
import time
from typing import NamedTuple

import structlog
from redis import Redis
from redis.exceptions import RedisError

KEY_PREFIX = "falqon:rate:"
LOOK_AGAIN_SECONDS = 5.0  # a Redis that hangs may not hold up every request
MICROSECONDS = 1_000_000

# Answers the microseconds until the next token (0: one was taken) and until the bucket is full.
TAKE = """
local capacity, interval = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = full_at + interval - now - capacity * interval
if wait > 0 then return {wait, full_at - now} end
full_at = full_at + interval
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return {0, full_at - now}
"""

log = structlog.get_logger()


class Answer(NamedTuple):
    capacity: int
    remaining: int
    wait_seconds: float  # until the next token, 0 where one was taken
    full_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.capacity),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.full_seconds:.3f}s",
        }

    @property
    def retry_headers(self) -> dict[str, str]:
        return {"retry-after": str(math.ceil(self.wait_seconds)), "retry-after-ms": str(math.ceil(self.wait_seconds * 1000))}


class RateLimiter:
    def __init__(self, redis: Redis, requests_per_minute: int) -> None:
        self._take = redis.register_script(TAKE)
        self._requests_per_minute = requests_per_minute
        self._away_until = 0.0

    def take(self, key_id: str, requests_per_minute: int | None) -> Answer | None:
        """None while Redis is away: then nothing is counted, and nothing refused."""
        if time.monotonic() < self._away_until:
            return None
        capacity = requests_per_minute or self._requests_per_minute
        interval = 60 * MICROSECONDS // capacity
        try:
            wait, until_full = self._take(keys=[KEY_PREFIX + key_id], args=[capacity, interval])
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + LOOK_AGAIN_SECONDS
            log.warning("requests are not counted: Redis is away", error=str(error))
            return None
        remaining = max(0, capacity - math.ceil(until_full / interval))
        return Answer(capacity, remaining, wait / MICROSECONDS, until_full / MICROSECONDS)
