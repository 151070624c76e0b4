import json
import socket
import time
from pathlib import Path

import redis

from app.base.settings import Settings
from app.models import FileCheck, Job
from app.notifier.broker import KEY_PREFIX, Notifier
from app.notifier.queues import CPU_QUEUE, GPU_QUEUE
from tests.support.valkey import Valkey, listening
from tests.support.waiting import wait_for

BOUND_SECONDS = 5.0  # of a worker's connection; that of a notification waits for less


def test_a_notification_is_one_message_to_all_that_listen_and_nothing_is_kept(
    valkey: Valkey,
) -> None:
    notifier = Notifier(valkey.settings)
    notifier.notify(Job, "ftjob-1")
    with listening(valkey) as one, listening(valkey) as other:
        notifier.notify(Job, "ftjob-2")
        notifier.notify(FileCheck, "check-1")
        for heard in (one, other):
            for queue in (GPU_QUEUE, CPU_QUEUE):
                message = heard.get_message(timeout=5)
                assert message is not None
                assert message["channel"].decode() == f"{KEY_PREFIX}/0.{queue}/{queue}"
                assert json.loads(message["data"])["headers"]["task"] == "worker.tasks.poll"
            assert heard.get_message(timeout=0.1) is None
    with redis.Redis.from_url(valkey.settings.resolved_redis_url) as client:
        assert client.keys("*") == []


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


def test_the_same_notifier_is_heard_again_after_a_restart(valkey: Valkey) -> None:
    notifier = Notifier(valkey.settings)
    notifier.notify(Job, "ftjob-1")
    valkey.kill()
    notifier.notify(Job, "ftjob-2")
    valkey.start()
    with listening(valkey) as heard:
        # The first may find its connection dead.
        wait_for(lambda: notifier.notify(Job, "ftjob-3") or heard.get_message(timeout=1))
