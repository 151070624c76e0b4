"""A verdict is of now or it is no verdict, and one part that hangs spoils no other."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.http import probes
from app.http.probes import OK, UNKNOWN, BackgroundCheck
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(probes, "MAX_AGE_SECONDS", 0.3)


@pytest.fixture
def silent() -> Iterator[threading.Event]:
    """Set: the part answers no more, until the test ends."""
    silent = threading.Event()
    yield silent
    silent.clear()


def test_an_old_verdict_is_none(silent: threading.Event) -> None:
    def answer() -> str:
        while silent.is_set():
            time.sleep(0.02)
        return OK

    watch = BackgroundCheck("storage", answer)
    other = BackgroundCheck("database", lambda: OK)
    watch.start()
    other.start()
    watch.wait_for_first(5)
    assert watch.verdict == OK
    silent.set()
    wait_for(lambda: watch.verdict == UNKNOWN)
    assert other.verdict == OK
    silent.clear()
    wait_for(lambda: watch.verdict == OK)
    watch.stop()
    other.stop()


def test_a_failing_probe_runs_again() -> None:
    answers = iter([OK])
    watch = BackgroundCheck("redis", lambda: next(answers, None) or str(1 / 0))
    watch.start()
    wait_for(lambda: watch.verdict == UNKNOWN)
    answers = iter([OK] * 1000)
    wait_for(lambda: watch.verdict == OK)
    watch.stop()


def test_a_start_waits_for_a_verdict_but_not_for_ever(silent: threading.Event) -> None:
    silent.set()

    def answer() -> str:
        while silent.is_set():
            time.sleep(0.02)
        return OK

    watch = BackgroundCheck("storage", answer)
    watch.start()
    started = time.monotonic()
    watch.wait_for_first(0.1)
    assert time.monotonic() - started < 5
    assert watch.verdict == UNKNOWN
    watch.stop()
