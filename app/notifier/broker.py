"""Celery as both sides use it: carried messages hold an id and mean *look*; losing or doubling one harms nothing."""

import sys
from functools import cached_property
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from app.ids import new_id
from app.settings import Settings

GPU_QUEUE = "gpu"
CPU_QUEUE = "cpu"
LOOK_FOR_JOB = "worker.tasks.look_for_job"
CHECK_FILE = "worker.tasks.check_file"
EXPORT_MODEL = "worker.tasks.export_model"
ANSWER_PROMPT = "worker.tasks.answer_prompt"
INSPECT_FILE = "worker.tasks.inspect_file"
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
            "socket_timeout": 15,  # without one, a half-open connection is never noticed; must exceed the 1 s of BRPOP
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
        "worker_disable_prefetch": True,  # else a busy worker hoards one message for hours
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_soft_shutdown_timeout": 0,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_queues": {GPU_QUEUE: {}, CPU_QUEUE: {}},
        "task_default_queue": CPU_QUEUE,
        "task_create_missing_queues": False,
        "enable_utc": True,
    }


def worker_command(queue: str) -> list[str]:
    options = ["-P", "threads", "-c", "1", "-Q", queue, "--without-gossip", "--without-mingle", "-n", f"{new_id(f'{queue}-')}@%h"]
    return [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", *options]


class Notifier:
    """Tells workers to look. Best effort within about a second: a broker that is down costs a warning, and the reconciler rings again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def notify_job(self, job_id: str) -> None:
        self._ring(LOOK_FOR_JOB, GPU_QUEUE, job_id)

    def notify_file(self, file_id: str) -> None:
        self._ring(CHECK_FILE, CPU_QUEUE, file_id)

    def notify_inspection(self, file_id: str) -> None:
        self._ring(INSPECT_FILE, CPU_QUEUE, file_id)

    def notify_export(self, export_id: str) -> None:
        self._ring(EXPORT_MODEL, CPU_QUEUE, export_id)

    def notify_trial(self, trial_id: str) -> None:
        self._ring(ANSWER_PROMPT, CPU_QUEUE, trial_id)

    def _ring(self, task: str, queue: str, id_: str) -> None:
        try:
            self._producer.send_task(task, args=[id_], queue=queue, retry=False)
        except (OperationalError, KombuError, RedisError, OSError) as error:
            log.warning("notify failed", queue=queue, id=id_, error=str(error))

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
