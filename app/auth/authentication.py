import math

from app.auth import keys, secrets
from app.auth.caller import Caller
from app.auth.failures import Failures
from app.base.database import Database
from app.base.errors import InvalidApiKey, RateLimited


def authenticate(database: Database, failures: Failures, address: str, secret: str) -> Caller:
    """Return the caller that the secret identifies, and record its use.

    Raise `InvalidApiKey`, and `RateLimited` after repeated failures of this address.
    """
    digest = secrets.digest(secret)
    refuse_guessing(failures, address, digest)
    try:
        caller = _check(database, secret)
    except InvalidApiKey:
        failures.record_failure(address)
        raise
    failures.record_success(digest)
    if caller.use_is_due:
        with database.transaction() as session:
            keys.note_use(session, caller.key_id)
    return caller


def refuse_guessing(failures: Failures, address: str, digest: str) -> None:
    """Raise `RateLimited` for an address that sent many wrong secrets, unless this secret
    authenticated before.
    """
    if wait := failures.wait_seconds(address, digest):
        seconds = math.ceil(wait)
        raise RateLimited(
            f"Too many wrong API keys from this address; try again in {seconds} s.",
            headers={"retry-after": str(seconds)},
        )


def _check(database: Database, secret: str) -> Caller:
    if not secret:
        raise InvalidApiKey(
            "You didn't provide an API key. Send it as a header: Authorization: Bearer YOUR_KEY"
        )
    with database.look_up() as session:
        return keys.check_secret(session, secret)
