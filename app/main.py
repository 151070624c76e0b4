import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from redis import Redis
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from app.aliases import endpoints as aliases
from app.aliases import service as alias_service
from app.artifacts import endpoints as artifacts
from app.attempts import endpoints as attempts
from app.audit_logs import endpoints as audit_logs
from app.auth import oidc
from app.auth.failures import Failures
from app.auth.rate_limit import RateLimiter
from app.base import logging, tracing
from app.base.database import Database
from app.base.metrics_port import metrics_port
from app.base.settings import Settings, load_settings
from app.base.storage import Storage
from app.base.storage.reach import FOR_PROBES
from app.batches import endpoints as batches
from app.catalogue import endpoints as catalogue
from app.catalogue.listing import ModelLists
from app.dataset_statistics import endpoints as dataset_statistics
from app.estimates.service import device_of
from app.evaluations import endpoints as evaluations
from app.exports import endpoints as exports
from app.files import endpoints as files
from app.garbage import installation
from app.http import error_handlers, graders, health, openapi
from app.http.middleware import KnownHosts, RequestContext, TrailingSlashes
from app.http.probes import HealthMonitor
from app.hub import endpoints as hub
from app.inference import endpoints as inference
from app.inference import engine_endpoints as engines
from app.inference.answers import open_engines
from app.jobs import endpoints as jobs
from app.jobs import estimate_endpoints as estimates
from app.keys import endpoints as keys
from app.keys.service import ensure_admin_key
from app.metrics import endpoints as metrics
from app.metrics.collector import InstallationCollector
from app.model_imports import endpoints as model_imports
from app.notifier.broker import Notifier
from app.notifier.wakeups import Wakeups
from app.permissions import endpoints as permissions
from app.prices import endpoints as prices
from app.prices.service import file_prices
from app.projects import endpoints as projects
from app.reconciler import Reconciler
from app.responses import endpoints as responses
from app.retention import endpoints as retention
from app.services import Services
from app.source_tokens import endpoints as source_tokens
from app.stored_answers import endpoints as stored_answers
from app.stored_answers.writer import answer_queue
from app.stream import endpoints as stream
from app.stream.service import read_changes
from app.studies import endpoints as studies
from app.switches import endpoints as switches
from app.uploads import endpoints as uploads
from app.usage import endpoints as usage
from app.users import endpoints as users
from app.web import assets, docs, pages, unknown
from app.web.compression import Compression
from app.web.session import CookieSessions
from app.webhooks import endpoints as webhooks
from app.webhooks.dispatcher import Dispatcher
from app.workers import endpoints as workers

REDIS_TIMEOUT_SECONDS = 1
# Python collects all its garbage whenever a quarter more objects are long-lived. With 2,000 open
# streams that stopped everything for up to a second, repeatedly; the young generations, with nearly
# all garbage, are enough most of the time.
GC_THRESHOLDS = (10_000, 10, 100)
# Routes with the most requests come first; suffixes of a model before models, whose ids may hold a
# slash and would match the rest of the path.
NOUNS = (
    inference,
    health,
    metrics,
    files,
    source_tokens,
    uploads,
    dataset_statistics,
    jobs,
    stream,
    permissions,
    evaluations,
    batches,
    studies,
    graders,
    estimates,
    prices,
    usage,
    audit_logs,
    workers,
    attempts,
    engines,
    projects,
    keys,
    users,
    webhooks,
    artifacts,
    exports,
    aliases,
    switches,
    responses,
    stored_answers,
    retention,
    model_imports,
    catalogue,
    hub,
    pages,
    docs,
)

log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="FALQON",
        description="Fine-tuning through the API that the `openai` client speaks. "
        "Fields beyond it travel in `falqon`.",
        version=version("falqon"),
        lifespan=lambda app: _lifespan(app, settings),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": tracing.is_untraced,
        },
    )
    app.state.model_lists = ModelLists()
    error_handlers.install(app)
    unknown.install(app)
    app.add_middleware(CookieSessions, settings=settings)
    app.add_middleware(Compression)
    app.add_middleware(TrailingSlashes)
    app.add_middleware(KnownHosts, hosts=settings.hosts)
    app.add_middleware(RequestContext)
    if settings.allowed_origins:
        # Without credentials: an external page has its own keys, never our cookie.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    for noun in NOUNS:
        app.include_router(noun.router)
    app.include_router(artifacts.followed)
    app.include_router(engines.model_router)  # behind all others: its path ends with any text
    app.openapi = openapi.describe(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    assets.mount(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    logging.configure(logging.secrets_of(settings, os.environ))
    tracing.configure(settings, "api")
    gc.set_threshold(*GC_THRESHOLDS)
    # Queries the driver before the first request, and refuses an unknown device.
    device_of(settings)
    file_prices(settings.prices)  # refuses unreadable prices, too
    provider = oidc.open_provider(settings)
    database = Database(settings.resolved_database_url)
    redis = Redis.from_url(
        settings.resolved_redis_url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=None,
    )
    services = Services(
        settings,
        database,
        Storage(settings.resolved_storage_url),
        redis,
        Notifier(settings),
        RateLimiter(redis, settings.requests_per_minute, settings.tokens_per_minute),
        Failures(settings.wrong_keys_per_minute),
        Wakeups(settings.resolved_redis_url, partial(read_changes, database)),
        provider,
    )
    health_monitor = HealthMonitor(
        database, Storage(settings.resolved_storage_url, FOR_PROBES), services.storage, redis
    )
    try:
        await run_in_threadpool(installation.refuse_mismatch, database, services.storage)
    except installation.Mismatch:
        database.dispose()
        raise
    app.state.services = services
    app.state.health_monitor = health_monitor
    app.state.metrics = CollectorRegistry()
    app.state.metrics.register(InstallationCollector(database, settings, health_monitor))
    await run_in_threadpool(alias_service.seed, database, settings.model_aliases)
    secret = await run_in_threadpool(ensure_admin_key, database, settings)
    if secret is not None:  # printed for the operator, not logged
        sys.stderr.write(f"\nYour API key, shown this once: {secret}\n\n")
    reconciler = Reconciler(database, services.storage, services.notifier, settings)
    dispatcher = Dispatcher(database, settings)
    reconciler.start()
    dispatcher.start()
    await run_in_threadpool(health_monitor.start)
    try:
        with metrics_port(settings.api_metrics_port, settings.metrics_host, app.state.metrics):
            async with (
                services.wakeups.running(),
                answer_queue(database) as app.state.answer_queue,
                open_engines(settings, database, app.state.answer_queue) as app.state.engines,
            ):
                yield
    finally:
        await run_in_threadpool(health_monitor.stop)
        await run_in_threadpool(dispatcher.stop)
        await run_in_threadpool(reconciler.stop)
        if provider is not None:
            provider.close()
        redis.close()
        database.dispose()


app = create_app(load_settings())
