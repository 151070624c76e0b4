import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.queue_forecast import (
    ProjectQueue,
    Queue,
    QueueObject,
    RunningJob,
    WaitingJob,
)
from app.models import Project

MINE = Project(id="mine", weight=1, virtual_time=0.0)


def queue_of(before: list[float | None], running: list[float | None], num_idle: int) -> Queue:
    waiting = [WaitingJob(f"job-{number}", seconds) for number, seconds in enumerate(before)]
    return Queue(
        {"mine": ProjectQueue(1, 0.0, waiting)},
        [RunningJob("mine", seconds, "cpu") for seconds in running],
        ["cpu"] * num_idle,
    )


def line(
    name: str, num_jobs: int, *, weight: int = 1, virtual_time: float = 0.0, seconds: float = 10.0
) -> ProjectQueue:
    return ProjectQueue(
        weight, virtual_time, [WaitingJob(f"{name}{number}", seconds) for number in range(num_jobs)]
    )


def order(queue: Queue, *names: str) -> str:
    places = {name: queue.position_of(name) for name in names}
    assert None not in places.values()
    return " ".join(sorted(names, key=lambda name: places[name].position))  # type: ignore[union-attr, arg-type, return-value]


def starts_in(place: QueueObject | None) -> float:
    assert place is not None
    assert place.estimated_start is not None, place.reason
    return place.estimated_start - time.time()


def test_a_job_for_which_no_worker_has_enough_gpus_waits_for_one() -> None:
    waiting = {"mine": line("job", 1)}
    few, enough, none = (
        Queue(waiting, [], ["cpu"], most_gpus=most) for most in ({"cpu": 2}, {"cpu": 4}, {})
    )
    place = few.position_of("job0", 4)
    assert place is not None
    assert (place.position, place.estimated_start, place.reason) == (None, None, "too_few_gpus")
    for queue in (enough, none):
        place = queue.position_of("job0", 4)
        assert place is not None
        assert (place.position, place.reason) == (1, None)


def test_a_job_waits_for_a_worker_that_has_its_device() -> None:
    jobs = [WaitingJob("first", 50.0, gpu="h100"), WaitingJob("other", 10.0, gpu="l40s")]
    jobs += [WaitingJob("any", 5.0), WaitingJob("again", 10.0, gpu="h100")]
    running = [RunningJob("mine", 30.0, "h100")]
    queue = Queue(
        {"mine": ProjectQueue(1, 0.0, jobs)}, running, ["a100"], most_gpus={"h100": 2, "a100": 8}
    )
    place = queue.position_of("other", gpu="l40s")
    assert place is not None
    assert (place.position, place.estimated_start, place.reason) == (
        None, None, "no_worker_of_device",
    )  # fmt: skip
    for name, seconds in (("any", 0), ("first", 30), ("again", 80)):
        assert abs(starts_in(queue.position_of(name)) - seconds) <= 1.5, name
    many = queue.position_of("again", 4, "h100")
    assert many is not None
    assert many.reason == "too_few_gpus"


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
    place = queue_of([*before, 7.0], running, num_idle).position_of(f"job-{len(before)}")
    assert abs(starts_in(place) - seconds) <= 1.5
    assert place is not None
    assert (place.position, place.num_workers, place.reason) == (
        len(before) + 1,
        len(running) + num_idle,
        None,
    )
    assert (
        abs(starts_in(queue_of(before, running, num_idle).position_if_added(MINE, 0)) - seconds)
        <= 1.5
    )


def test_a_forecast_that_cannot_be_made_has_a_reason() -> None:
    nobody = queue_of([], [], 0).position_if_added(MINE, 0)
    endless = queue_of([], [None], 0).position_if_added(MINE, 0)
    jobs = [WaitingJob(f"job-{number}", 1.0) for number in range(3)]
    long = Queue({"mine": ProjectQueue(1, 0.0, jobs, is_cut=True)}, [], ["cpu"])
    assert (nobody.position, nobody.estimated_start, nobody.reason) == (1, None, "no_live_worker")
    assert (endless.position, endless.estimated_start, endless.reason) == (
        1,
        None,
        "unknown_duration",
    )
    for place in (long.position_if_added(MINE, 0), long.position_of("a later one")):
        assert place is not None
        assert (place.position, place.estimated_start, place.reason) == (None, None, "long_queue")
    assert long.position_if_added(MINE, 1).position == 1
    assert queue_of([1.0], [], 1).position_of("taken meanwhile") is None


def test_projects_take_turns_by_their_weight() -> None:
    equal = Queue({"a": line("a", 2), "b": line("b", 2)}, [], ["cpu"])
    assert order(equal, "a0", "a1", "b0", "b1") == "a0 b0 a1 b1"
    heavy = Queue({"a": line("a", 4, weight=3), "b": line("b", 4)}, [], ["cpu"])
    assert order(heavy, "a0", "a1", "a2", "b0", "b1") == "a0 b0 a1 a2 b1"


def test_the_project_with_fewer_cards_comes_first() -> None:
    running = [RunningJob("a", 100.0, "cpu", 4), *[RunningJob("b", 100.0, "cpu")] * 2]
    queue = Queue({"a": line("a", 2), "b": line("b", 4)}, running, ["cpu"] * 3)
    assert order(queue, "a0", "b0", "b1", "b2") == "b0 b1 a0 b2"


def test_a_turn_costs_as_much_as_its_cards() -> None:
    wide = [WaitingJob(f"a{number}", 10.0, num_gpus=4) for number in range(3)]
    queue = Queue({"a": ProjectQueue(1, 0.0, wide), "b": line("b", 6)}, [], ["cpu"])
    assert order(queue, "a0", "a1", "b0", "b3", "b4") == "a0 b0 b3 a1 b4"


def test_a_project_at_its_ceiling_waits_for_its_own_jobs() -> None:
    limited = ProjectQueue(1, 0.0, [WaitingJob(f"a{number}", 10.0) for number in range(3)], 1)
    queue = Queue({"a": limited}, [RunningJob("a", 30.0, "cpu")], ["cpu"] * 2)
    for number in range(3):
        place = queue.position_of(f"a{number}")
        assert abs(starts_in(place) - 30 - 10 * number) <= 1.5


def test_a_project_below_its_guarantee_comes_first_until_it_borrows() -> None:
    running = [RunningJob("a", 100.0, "cpu"), *[RunningJob("b", 100.0, "cpu")] * 2]
    owed = ProjectQueue(
        1, 9.0, [WaitingJob(f"b{number}", 10.0) for number in range(2)], guaranteed_gpus=3
    )
    queue = Queue({"a": line("a", 2), "b": owed}, running, ["cpu"] * 3)
    assert order(queue, "a0", "a1", "b0", "b1") == "b0 a0 a1 b1"


def test_a_new_job_is_foreseen_where_its_project_and_priority_put_it() -> None:
    queue = Queue(
        {"theirs": line("theirs", 50, virtual_time=9.0), "mine": line("mine", 3, virtual_time=9.0)},
        [],
        ["cpu"],
        served=9.0,
    )
    assert (
        queue.position_if_added(MINE, 0).position,
        queue.position_if_added(MINE, 1).position,
    ) == (7, 1)
    assert queue.position_if_added(Project(id="other", weight=1, virtual_time=0.0), 0).position == 1


@given(
    st.lists(st.floats(0, 1e6), max_size=20),
    st.lists(st.floats(0, 1e6), max_size=5),
    st.integers(1, 5),
)
def test_an_additional_worker_never_delays_a_start(
    before: list[float | None], running: list[float | None], num_idle: int
) -> None:
    few, more = (
        queue_of(before, running, idle).position_if_added(MINE, 0)
        for idle in (num_idle, num_idle + 1)
    )
    assert few.estimated_start is not None
    assert more.estimated_start is not None
    assert more.estimated_start <= few.estimated_start + 1
