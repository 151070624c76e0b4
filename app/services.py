from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import Redis

from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.notifier.broker import Notifier
from app.notifier.wakeups import Wakeups

if TYPE_CHECKING:
    from app.auth.oidc.provider import Provider


@dataclass(frozen=True)
class Services:
    """Services of an API process, made at its start and passed to every use case."""

    settings: Settings
    database: Database
    storage: Storage
    redis: Redis
    notifier: Notifier
    limiter: RateLimiter
    failures: Failures
    wakeups: Wakeups
    provider: "Provider | None" = None  # identity provider that people sign in through
