import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.queue import FORESEEN, Queue, QueueObject, Waiting


def waiting(*seconds: float | None) -> list[Waiting]:
    return [Waiting(f"job-{number}", one) for number, one in enumerate(seconds)]


def starts_in(place: QueueObject | None) -> float:
    assert place is not None
    assert place.estimated_start is not None, place.reason
    return place.estimated_start - time.time()


@pytest.mark.parametrize(
    ("before", "running", "num_idle", "seconds"),
    [
        ([], [], 1, 0),
        ([], [30.0], 0, 30),
        ([], [30.0], 1, 0),
        ([100.0], [30.0], 0, 130),
        ([100.0, 10.0], [], 2, 10),
        ([100.0, 10.0, 10.0], [50.0], 1, 70),
        ([None], [30.0, 40.0], 0, 40),
    ],
)
def test_a_job_starts_when_the_first_worker_is_free_of_those_before(
    before: list[float | None], running: list[float | None], num_idle: int, seconds: float
) -> None:
    queue = Queue(waiting(*before, 7.0), running, num_idle)
    place = queue.place(f"job-{len(before)}")
    assert abs(starts_in(place) - seconds) <= 1.5
    assert place is not None
    assert (place.position, place.num_workers, place.reason) == (len(before) + 1, len(running) + num_idle, None)
    assert abs(starts_in(Queue(waiting(*before), running, num_idle).end()) - seconds) <= 1.5


def test_what_cannot_be_told_has_a_reason() -> None:
    nobody, endless = Queue([], [], 0).end(), Queue([], [None], 0).end()
    long = Queue(waiting(*[1.0] * FORESEEN), [], 1)
    assert (nobody.position, nobody.estimated_start, nobody.reason) == (1, None, "no_live_worker")
    assert (endless.position, endless.estimated_start, endless.reason) == (1, None, "unknown_duration")
    for place in (long.end(), long.place("a later one")):
        assert place is not None
        assert (place.position, place.estimated_start, place.reason) == (None, None, "long_queue")
    assert Queue(waiting(1.0), [], 1).place("taken meanwhile") is None


@given(st.lists(st.floats(0, 1e6), max_size=20), st.lists(st.floats(0, 1e6), max_size=5), st.integers(1, 5))
def test_another_worker_never_makes_it_later(before: list[float], running: list[float], num_idle: int) -> None:
    few, more = (Queue(waiting(*before), running, idle).end() for idle in (num_idle, num_idle + 1))
    assert few.estimated_start is not None
    assert more.estimated_start is not None
    assert more.estimated_start <= few.estimated_start + 1
