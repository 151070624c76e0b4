"""What an answer says of the rate limits of its key."""

from fastapi import Request

from app.auth.rate_limit import Answer
from app.errors import RateLimited
from app.http.middleware import RESPONSE_HEADERS


def state_rate(request: Request, rate: Answer | None) -> None:
    """Have the answer to this request say what is left."""
    if rate is not None:
        request.scope["state"][RESPONSE_HEADERS].update(rate.headers)


def enforce_rate(request: Request, rate: Answer | None) -> None:
    """Say what is left. Raises `RateLimited` where that is nothing."""
    state_rate(request, rate)
    if rate is not None and rate.wait_seconds:
        raise RateLimited(
            f"This API key has {rate.capacity} {rate.unit} a minute; "
            f"the next one in {rate.wait_seconds:.3f} s.",
            headers=rate.retry_headers,
        )
