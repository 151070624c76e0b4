import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from app.base import logging, tracing
from app.base.processes.stop_signals import STOP_SIGNALS, set_at_stop_signals
from app.garbage import installation
from app.notifier.broker import celery_settings
from worker.entry import process
from worker.machine import metrics, pulse, scratch

app = Celery("falqon", include=["worker.entry.tasks"])
app.conf.update(celery_settings(process.settings()))


def _configure_logging(**_: object) -> None:
    logging.configure(logging.secrets_of(process.settings(), os.environ))
    tracing.configure(process.settings(), "worker")


def _start_polling(instance: Any, **_: object) -> None:
    with _noticing_signals():
        _wait_for_installation()
    if process.shutting_down.is_set():
        raise SystemExit(0)
    scratch.sweep_all(process.settings().work_dir)
    # Before Celery reaches for the broker, which may be dead.
    pulse.show_in(process.settings().alive_file)
    metrics.serve(process.settings())
    process.start_pollers([queue.alias for queue in instance.app.amqp.queues.consume_from.values()])


@contextmanager
def _noticing_signals() -> Iterator[None]:
    """Celery takes signals later. Until then the first process of a container would ignore them."""
    before = set_at_stop_signals(process.shutting_down)
    yield
    for number, handler in zip(STOP_SIGNALS, before, strict=True):
        signal.signal(number, handler)


def _wait_for_installation() -> None:
    try:
        parts = process.database(), process.storage()
        installation.wait_until_known(*parts, process.shutting_down)
    except installation.Mismatch as error:
        raise SystemExit(str(error)) from None


def _poll_once_more(**_: object) -> None:
    """Notifications between the first polls and this moment were heard by nobody."""
    process.wake_all_pollers()


def _drain(*_: object, **__: object) -> None:
    process.shutting_down.set()


def _wait_for_pollers(**_: object) -> None:
    process.shutting_down.set()
    process.join_pollers()


setup_logging.connect(_configure_logging)
celeryd_after_setup.connect(_start_polling)
worker_ready.connect(_poll_once_more)
worker_shutting_down.connect(_drain)
worker_shutdown.connect(_wait_for_pollers)
