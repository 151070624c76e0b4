"""Celery setup of both sides. A message holds a kind and an id and means *poll*. Every worker of a
queue that listens hears it, and none is kept: losing or doubling one harms nothing.
"""

from functools import cached_property
from typing import Any

import structlog
from celery import Celery
from kombu.common import Broadcast
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from app.base.settings import Settings
from app.models import Base, Job
from app.notifier.queues import CPU_QUEUE, GPU_QUEUE

POLL = "worker.tasks.poll"
KEY_PREFIX = "falqon:"
VISIBILITY_TIMEOUT_SECONDS = 3600

log = structlog.get_logger()


def celery_settings(settings: Settings) -> dict[str, Any]:
    return {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            # Without a timeout, a half-open connection is never noticed; must exceed the 1 s of
            # BRPOP.
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "retry_on_timeout": True,
            "global_keyprefix": KEY_PREFIX,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
        },
        # Acknowledged on arrival: the lease in the database replaces redelivery.
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_backend": None,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_soft_shutdown_timeout": 0,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_queues": [_broadcast(GPU_QUEUE), _broadcast(CPU_QUEUE)],
        "task_default_queue": CPU_QUEUE,
        "task_create_missing_queues": False,
        "enable_utc": True,
    }


def _broadcast(queue: str) -> Broadcast:
    """Return a queue that keeps nothing: a busy worker would take the messages of an idle one, and
    while all are busy they would pile up.
    """
    # One name for all workers, which Redis keeps a record of.
    return Broadcast(queue, f"{queue}.listeners", routing_key=queue)  # type: ignore[no-untyped-call]


def queue_of(kind: type[Base]) -> str:
    """Return the queue of the workers that serve rows of this kind."""
    return GPU_QUEUE if kind is Job else CPU_QUEUE


class Notifier:
    """Notifies workers to poll. Best effort within about a second: an unavailable broker costs a
    warning, and the reconciler notifies again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def notify(self, kind: type[Base], id_: str) -> None:
        """Have the workers poll for rows of this kind; the id is for their log."""
        try:
            queue = self._producer.amqp.queues[queue_of(kind)]
            # Celery declares no broadcast; undeclared, the message would be kept in a list.
            self._producer.send_task(
                POLL,
                args=[kind.__tablename__, id_],
                queue=queue,
                declare=[queue.exchange],
                retry=False,
            )
        except (OperationalError, KombuError, RedisError, OSError) as error:
            log.warning("notify failed", kind=kind.__tablename__, id=id_, error=str(error))

    @cached_property
    def _producer(self) -> Celery:
        app = Celery(set_as_current=False)
        app.conf.update(celery_settings(self._settings))
        app.conf.broker_transport_options |= {
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            "retry_on_timeout": False,
            "max_retries": 0,
            "connect_retries_timeout": 1,
        }
        return app
