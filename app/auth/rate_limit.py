"""Two buckets per API key, of requests and of the tokens that models read and write for it, in
Redis, so that they cover all API processes together.

A bucket is one number: the moment at which it will be full again. Without Redis no request is
limited.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import structlog
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError

KEY_PREFIX = "falqon:rate:"
TOKENS_PREFIX = "falqon:tokens:"
RETRY_SECONDS = 5.0  # an unresponsive Redis must not delay every request
MICROSECONDS = 1_000_000
MINUTE = 60 * MICROSECONDS

# Returns the microseconds until the next request (0: it was counted), until the bucket is full, and
# until the token bucket is full, from which nothing is taken: one call to Redis returns all three.
TAKE_SCRIPT = """
local capacity, interval = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local tokens_full_at = math.max(tonumber(redis.call('GET', KEYS[2]) or now), now)
local wait = full_at + interval - now - capacity * interval
if wait > 0 then return {wait, full_at - now, tokens_full_at - now} end
full_at = full_at + interval
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return {0, full_at - now, tokens_full_at - now}
"""
# Returns the microseconds until the bucket is full; the amount may be more than it holds, or
# negative: returned tokens.
USE_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + tonumber(ARGV[1])
local wait = full_at - now
if wait <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil(wait / 1000))
return wait
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Allowance:
    unit: str  # requests or tokens
    capacity: int
    remaining: int
    wait_seconds: float  # wait for the next request; 0: allowed now
    full_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{self.unit}": str(self.capacity),
            f"x-ratelimit-remaining-{self.unit}": str(self.remaining),
            f"x-ratelimit-reset-{self.unit}": f"{self.full_seconds:.3f}s",
        }

    @property
    def retry_headers(self) -> dict[str, str]:
        return {
            "retry-after": str(math.ceil(self.wait_seconds)),
            "retry-after-ms": str(math.ceil(self.wait_seconds * 1000)),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """Remaining allowance of a key."""

    requests: Allowance
    tokens: Allowance


class RateLimiter:
    def __init__(self, redis: Redis, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._take = redis.register_script(TAKE_SCRIPT)
        self._use = redis.register_script(USE_SCRIPT)
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._away_until = 0.0

    def take(self, key_id: str, requests_per_minute: int | None) -> Rates | None:
        """Count a request; return None while Redis is unavailable: then nothing is counted or
        limited.
        """
        capacity = requests_per_minute or self._requests_per_minute
        interval = MINUTE // capacity
        keys = [KEY_PREFIX + key_id, TOKENS_PREFIX + key_id]
        times = self._ask(self._take, keys, capacity, interval)
        if times is None:
            return None
        wait, until_full, until_full_of_tokens = times
        remaining = max(0, capacity - math.ceil(until_full / interval))
        requests = Allowance(
            "requests", capacity, remaining, wait / MICROSECONDS, until_full / MICROSECONDS
        )
        return Rates(requests, self._tokens(until_full_of_tokens))

    def use_tokens(self, key_id: str, num_tokens: int) -> Allowance | None:
        """Count the tokens of a prompt, or the difference to the actual usage, which may be
        negative, and return the remaining ones; None while Redis is unavailable.
        """
        used = num_tokens * MINUTE / self._tokens_per_minute
        until_full = self._ask(self._use, [TOKENS_PREFIX + key_id], used)
        if until_full is None:
            return None
        return self._tokens(until_full)

    def _tokens(self, until_full: int) -> Allowance:
        capacity = self._tokens_per_minute
        interval = MINUTE / capacity
        remaining = max(0, math.floor(capacity - until_full / interval))
        wait = max(0.0, until_full + interval - MINUTE)
        return Allowance(
            "tokens", capacity, remaining, wait / MICROSECONDS, until_full / MICROSECONDS
        )

    def _ask(self, script: Script, keys: list[str], *arguments: float) -> Any:
        if time.monotonic() < self._away_until:
            return None
        try:
            return script(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + RETRY_SECONDS
            log.warning("requests are not counted: Redis is unavailable", error=str(error))
            return None
