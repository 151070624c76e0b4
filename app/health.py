from typing import Literal

from fastapi import APIRouter, Response
from obstore.exceptions import BaseError as StorageError
from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app.dependencies import App, Services

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Without Redis everything works, only later: that is degraded, not unavailable."""

    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, str]


@router.get("/healthz")
async def healthz() -> Health:
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(app: App, response: Response) -> Readiness:
    database, storage, redis = _database(app), _storage(app), _redis(app)
    if database != "ok" or storage != "ok":
        response.status_code = 503
        response.headers["retry-after"] = "2"
        status: Literal["ok", "degraded", "unavailable"] = "unavailable"
    else:
        status = "ok" if redis == "ok" else "degraded"
    return Readiness(status=status, checks={"database": database, "redis": redis, "storage": storage})


def _database(app: Services) -> str:
    from app import migrate  # alembic costs a quarter of a second that a start need not wait for

    try:
        return "ok" if migrate.at_head(app.database) else "not migrated"
    except SQLAlchemyError:
        return "unreachable"


def _storage(app: Services) -> str:
    try:
        app.storage.probe()
    except (StorageError, OSError):
        return "not writable"
    return "ok"


def _redis(app: Services) -> str:
    try:
        app.redis.ping()
    except (RedisError, OSError):
        return "unreachable"
    return "ok"
