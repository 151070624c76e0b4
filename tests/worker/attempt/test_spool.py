import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.jobs.events import NewEvent
from falqon_core import fault_points
from worker.attempt import spool as spools
from worker.attempt.spool import Spool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.spool"


@pytest.fixture
def spool(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(spools, "IN_MEMORY", 3)
    spool = Spool(path)
    yield spool
    spool.close()


def draft(number: int) -> NewEvent:
    return NewEvent(
        f"event {number}", level="warn", type="metrics", data={"step": number, "text": "…\n"}
    )


def test_a_few_stay_in_memory(path: Path, spool: Spool) -> None:
    for number in range(3):
        spool.add(draft(number))
    assert len(spool) == 3
    assert spool.take(2) == [draft(0), draft(1)]
    assert not path.exists()


def test_order_and_content_survive_the_disk(path: Path, spool: Spool) -> None:
    events = []
    for number in range(500):
        spool.add(draft(number))
        if number % 7 == 0:
            events += spool.take(3)
    while spool:
        events += spool.take(64)
    assert events == [draft(number) for number in range(500)]
    assert path.stat().st_size == 0, "what was taken takes no space"
    spool.add(draft(500))
    assert spool.take(1) == [draft(500)]
    spool.close()
    assert not path.exists()


def test_a_spool_is_written_and_read_at_the_same_time(path: Path, spool: Spool) -> None:
    events: list[NewEvent] = []
    writer = threading.Thread(target=lambda: [spool.add(draft(number)) for number in range(2000)])
    writer.start()
    while writer.is_alive() or spool:
        events += spool.take(50)
    assert events == [draft(number) for number in range(2000)]


def test_events_that_do_not_fit_the_spool_are_counted(
    path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "MAX_BYTES", 1000)
    for number in range(100):
        spool.add(draft(number))
    events = spool.take(100)
    assert events == [draft(number) for number in range(len(events))]
    assert path.exists()
    assert (spool.take_lost(), spool.take_lost()) == (100 - len(events), 0)


def test_a_full_disk_costs_events_and_nothing_else(path: Path, spool: Spool) -> None:
    fault_points.arm("spool_write=enospc*2")
    for number in range(6):
        spool.add(draft(number))
    fault_points.arm("")
    assert spool.take(9) == [draft(number) for number in (0, 1, 2, 3, 5)]
    assert spool.take_lost() == 1


def test_an_event_that_was_cut_short_is_overwritten(path: Path, spool: Spool) -> None:
    """A limit of the kernel ends a write inside an event, as a disk does that fills up."""
    for number in range(4):
        spool.add(draft(number))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        spool.add(draft(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    spool.add(draft(5))
    assert spool.take(9) == [draft(number) for number in (0, 1, 2, 3, 5)]
    assert spool.take_lost() == 1
