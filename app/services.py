from dataclasses import dataclass

from redis import Redis

from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.notifier.broker import Notifier
from app.notifier.wakeups import Wakeups


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
