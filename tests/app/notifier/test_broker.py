import socket
import time
from pathlib import Path

import redis

from app.base.settings import Settings
from app.models import FileCheck, Job
from app.notifier.broker import KEY_PREFIX, Notifier
from app.notifier.queues import GPU_QUEUE
from tests.support.valkey import Valkey

BOUND_SECONDS = 2.5


def test_a_ring_is_one_message_that_holds_only_the_id(valkey: Valkey) -> None:
    notifier = Notifier(valkey.settings)
    notifier.notify(Job, "ftjob-1")
    notifier.notify(FileCheck, "check-1")
    client = redis.Redis.from_url(valkey.settings.resolved_redis_url)
    message = client.lindex(KEY_PREFIX + GPU_QUEUE, 0)
    assert isinstance(message, bytes)
    assert b"worker.tasks.poll" in message
    assert client.llen(KEY_PREFIX + "cpu") == 1
    client.close()


def test_a_dead_broker_costs_a_warning(tmp_path: Path) -> None:
    started = time.monotonic()
    Notifier(Settings(data_dir=tmp_path)).notify(Job, "ftjob-1")
    Notifier(Settings(redis_url="redis://127.0.0.1:1/0")).notify(Job, "ftjob-1")
    assert time.monotonic() - started < BOUND_SECONDS


def test_a_silent_broker_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        Notifier(Settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")).notify(
            Job, "ftjob-1"
        )
        assert time.monotonic() - started < BOUND_SECONDS


def test_the_same_bell_rings_again_after_a_restart(valkey: Valkey) -> None:
    notifier = Notifier(valkey.settings)
    notifier.notify(Job, "ftjob-1")
    valkey.kill()
    notifier.notify(Job, "ftjob-2")
    valkey.start()
    notifier.notify(Job, "ftjob-3")
    client = redis.Redis.from_url(valkey.settings.resolved_redis_url)
    assert client.llen(KEY_PREFIX + GPU_QUEUE) >= 1
    client.close()
