"""Response headers for the rate limits of an API key."""

from fastapi import Request

from app.auth.rate_limit import Allowance, Rates
from app.base.errors import RateLimited
from app.http.middleware import RESPONSE_HEADERS


def state_rate(request: Request, rate: Allowance | None) -> None:
    """Add the remaining allowance to the response of this request."""
    if rate is not None:
        request.scope["state"][RESPONSE_HEADERS].update(rate.headers)


def enforce_requests(request: Request, rates: Rates | None) -> None:
    """Set the headers of requests, and keep the token allowance for `enforce_tokens`.

    Raises `RateLimited` if no request remains.
    """
    request.state.rates = rates
    if rates is not None:
        _enforce(request, rates.requests)


def enforce_tokens(request: Request) -> None:
    """Set the headers of tokens. Raises `RateLimited` if none remain."""
    rates: Rates | None = request.state.rates
    if rates is not None:
        _enforce(request, rates.tokens)


def _enforce(request: Request, rate: Allowance) -> None:
    state_rate(request, rate)
    if rate.wait_seconds:
        raise RateLimited(
            f"This API key has {rate.capacity} {rate.unit} a minute; "
            f"the next one in {rate.wait_seconds:.3f} s.",
            headers=rate.retry_headers,
        )
