"""What the API's actions work with, without the API. Nothing here opens a connection by itself."""

from redis import Redis

from app.auth.caller import Caller
from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.models import DEFAULT_PROJECT_ID, Scope
from app.notifier.broker import Notifier
from app.notifier.wakeups import Changes, Wakeups
from app.services import Services

ADMIN = Caller("key_1", DEFAULT_PROJECT_ID, Scope.ADMIN, None, False)


def make_services(settings: Settings, database: Database, storage: Storage) -> Services:
    redis = Redis.from_url(settings.resolved_redis_url)
    return Services(
        settings,
        database,
        storage,
        redis,
        Notifier(settings),
        RateLimiter(redis, settings.requests_per_minute, settings.tokens_per_minute),
        Failures(settings.wrong_keys_per_minute),
        Wakeups(settings.resolved_redis_url, lambda ids, key_ids: Changes({}, set())),
    )
