import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI
from redis import Redis
from starlette.concurrency import run_in_threadpool

from app import installation, logging
from app.artifacts import endpoints as artifacts
from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.catalogue import endpoints as catalogue
from app.database import Database
from app.estimates import endpoints as estimates
from app.estimates.service import device_of
from app.exports import endpoints as exports
from app.files import endpoints as files
from app.http import error_handlers, graders, health, openapi
from app.http.dependencies import Services
from app.http.middleware import KnownHosts, RequestContext
from app.http.probes import HealthMonitor
from app.hub import endpoints as hub
from app.inspections import endpoints as inspections
from app.jobs import endpoints as jobs
from app.keys import endpoints as keys
from app.keys.service import ensure_admin_key
from app.notifier.broker import Notifier
from app.permissions import endpoints as permissions
from app.prices import endpoints as prices
from app.prices.service import file_prices
from app.projects import endpoints as projects
from app.reconciler import Reconciler
from app.settings import Settings, load_settings
from app.storage import Storage
from app.storage.reach import FOR_PROBES
from app.stream import endpoints as stream
from app.stream.wakeup import Wakeups
from app.trials import endpoints as trials
from app.uploads import endpoints as uploads
from app.web import assets, docs, pages
from app.web.session import CookieSessions
from app.webhooks import endpoints as webhooks
from app.webhooks.dispatcher import Dispatcher
from app.workers import endpoints as workers

REDIS_TIMEOUT_SECONDS = 1
# Python collects all its garbage whenever a quarter more objects have come to stay. With 2,000 open streams that stopped everything for
# up to a second, again and again; the young generations, where nearly all garbage is, are enough most of the time.
GC_THRESHOLDS = (10_000, 10, 100)
# What belongs to models comes before models, whose ids may hold a slash and would swallow the rest of the path.
NOUNS = (
    *(health, files, uploads, inspections, jobs, stream, permissions, graders),
    *(estimates, prices, workers, projects, keys, webhooks, artifacts, exports, trials, catalogue, hub, pages, docs),
)

log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="FALQON",
        description="Fine-tuning through the API that the `openai` client speaks. Fields beyond it travel in `falqon`.",
        version="0.1.0",
        lifespan=lambda app: _lifespan(app, settings),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    error_handlers.install(app)
    app.add_middleware(CookieSessions, settings=settings)
    app.add_middleware(KnownHosts, hosts=settings.hosts)
    app.add_middleware(RequestContext)
    for noun in NOUNS:
        app.include_router(noun.router)
    app.include_router(artifacts.followed)
    app.openapi = openapi.describe(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    assets.mount(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    logging.configure(logging.secrets_of(settings, os.environ))
    gc.set_threshold(*GC_THRESHOLDS)
    device_of(settings)  # an unknown device is better refused now than with the first job
    file_prices(settings.prices)  # and so are prices that cannot be read
    database = Database(settings.resolved_database_url)
    redis = Redis.from_url(
        settings.resolved_redis_url, socket_timeout=REDIS_TIMEOUT_SECONDS, socket_connect_timeout=REDIS_TIMEOUT_SECONDS, retry=None
    )
    held = Services(
        settings,
        database,
        Storage(settings.resolved_storage_url),
        Notifier(settings),
        redis,
        RateLimiter(redis, settings.requests_per_minute),
        Failures(settings.wrong_keys_per_minute),
        Wakeups(settings.resolved_redis_url, partial(stream.look, database)),
        HealthMonitor(database, Storage(settings.resolved_storage_url, FOR_PROBES), redis),
    )
    await run_in_threadpool(installation.refuse_mismatch, database, held.storage)
    app.state.services = held
    secret = await run_in_threadpool(ensure_admin_key, database, settings)
    if secret is not None:  # to the person who started this, not to the log
        sys.stderr.write(f"\nYour API key, shown this once: {secret}\n\n")
    reconciler, dispatcher = Reconciler(database, held.storage, held.notifier, settings), Dispatcher(database, settings)
    reconciler.start()
    dispatcher.start()
    await run_in_threadpool(held.health.start)
    try:
        async with held.wakeups.running():
            yield
    finally:
        held.health.stop()
        await run_in_threadpool(dispatcher.stop)
        await run_in_threadpool(reconciler.stop)
        redis.close()
        database.dispose()


app = create_app(load_settings())
