"""Which jobs give their cards back, as a pure function."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.jobs.preemption_plan import Place, Preemption, RunningJob, WaitingJob, plan

CARDS = 4  # Of a machine.
PROJECTS = "abc"


def place(number: int, machine: str = "m", **values: object) -> Place:
    cards = frozenset(range(CARDS))
    return Place(f"{machine}-{number}", machine, "h100", CARDS, cards)._replace(**values)


def job(name: str, cards: Sequence[int], lost: float, **values: object) -> RunningJob:
    found = RunningJob(name, 1, "b", f"m-{name}", "m", len(cards), frozenset(cards), lost)
    return found._replace(**values)


def victims_of(planned: Sequence[Preemption]) -> list[list[str]]:
    return [[victim.id for victim in each.victims] for each in planned]


PLACES = [place(number) for number in range(CARDS + 1)]
ONE = WaitingJob("w", "a", 1)
TWO = WaitingJob("w", "a", 2)
FULL = [job(str(card), [card], lost) for card, lost in enumerate((30.0, 5.0, 60.0, 20.0))]


def test_the_job_that_loses_the_least_work_gives_its_card() -> None:
    assert victims_of(plan([ONE], PLACES, FULL, {})) == [["1"]]
    assert victims_of(plan([TWO], PLACES, FULL, {})) == [["3", "1"]] or victims_of(
        plan([TWO], PLACES, FULL, {})
    ) == [["1", "3"]]


def test_no_more_cards_are_taken_than_needed() -> None:
    running = [job("wide", [0, 1, 2], 1.0), job("narrow", [3], 900.0)]
    assert victims_of(plan([ONE], PLACES, running, {})) == [["narrow"]]
    assert victims_of(plan([TWO], PLACES, running, {})) == [["wide"]]
    assert plan([ONE], PLACES, running[:1], {}) == []


def test_a_project_keeps_what_it_is_guaranteed() -> None:
    assert victims_of(plan([TWO], PLACES, FULL, {"b": 2})) != []
    assert plan([TWO], PLACES, FULL, {"b": 3}) == []
    wide = [job("wide", range(4), 1.0)]
    assert plan([ONE], PLACES, wide, {"b": 1}) == []
    assert victims_of(plan([ONE], PLACES, wide, {"b": 0})) == [["wide"]]
    other = FULL[2]._replace(project_id="c")
    mixed = [*FULL[:2], other, FULL[3]]
    assert victims_of(plan([ONE], PLACES, mixed, {"b": 3})) == [["2"]]


def test_cards_that_become_free_anyway_are_waited_for() -> None:
    ending = [FULL[0]._replace(is_ending=True), *FULL[1:]]
    assert plan([ONE], PLACES, ending, {}) == []
    assert victims_of(plan([TWO], PLACES, ending, {})) == [["1"]]
    # A job that came later and goes before it takes nothing of what was decided for another.
    decided = [FULL[0]._replace(is_ending=True, preempted_for="w"), *FULL[1:]]
    first = WaitingJob("first", "a", 1)
    planned = plan([first, ONE], PLACES, decided, {})
    assert [(each.job.id, victims_of([each])) for each in planned] == [("first", [["1"]])]


def test_only_what_helps_is_taken() -> None:
    spared = [each._replace(may_stop=False) for each in FULL]
    assert plan([ONE], PLACES, spared, {}) == []
    own = [each._replace(project_id="a") for each in FULL]
    assert plan([ONE], PLACES, own, {}) == []
    others = [each._replace(project_ids=frozenset("bc")) for each in PLACES]
    assert plan([ONE], others, FULL, {}) == []
    assert plan([ONE._replace(gpu="l40s")], PLACES, FULL, {}) == []
    assert plan([WaitingJob("w", "a", CARDS + 1)], PLACES, FULL, {}) == []


def test_a_worker_alone_on_its_machine_has_to_end_its_own_job() -> None:
    alone = [place(0)]
    running = [job("0", [0], 50.0, worker="m-0")]
    assert victims_of(plan([ONE], alone, running, {})) == [["0"]]
    unnamed = [Place("n-0", "n", "cpu", 1, frozenset())]
    on_it = [job("x", [], 1.0, worker="n-0", machine="n", num_gpus=1)]
    assert victims_of(plan([ONE], unnamed, on_it, {})) == [["x"]]
    assert plan([ONE], unnamed, [], {}) == []
    busy_place = [place(9, worker="m-1")]
    assert victims_of(plan([ONE], busy_place, FULL, {})) == [["1"]]


@st.composite
def clusters(
    draw: st.DrawFn,
) -> tuple[list[WaitingJob], list[Place], list[RunningJob], dict[str, int]]:
    places = [place(number, f"m{m}") for m in range(draw(st.integers(1, 3))) for number in range(6)]
    running = []
    for machine in sorted({each.machine for each in places}):
        free = list(range(CARDS))
        for number in range(draw(st.integers(0, CARDS))):
            size = draw(st.integers(1, CARDS))
            if size <= len(free):
                cards, free = free[:size], free[size:]
                running.append(
                    RunningJob(
                        f"r-{machine}-{number}",
                        1,
                        draw(st.sampled_from(PROJECTS)),
                        f"{machine}-{number}",
                        machine,
                        size,
                        frozenset(cards),
                        draw(st.floats(0, 1000)),
                        may_stop=draw(st.integers(0, 9)) > 0,
                        is_ending=draw(st.integers(0, 4)) == 0,
                    )
                )
    waiting = [
        WaitingJob(f"w{index}", draw(st.sampled_from(PROJECTS)), draw(st.integers(1, CARDS)))
        for index in range(draw(st.integers(0, 4)))
    ]
    guarantees = {project_id: draw(st.integers(0, 6)) for project_id in PROJECTS}
    return waiting, places, running, guarantees


@settings(deadline=None)
@given(clusters())
def test_each_choice_suffices_takes_no_card_too_many_and_nothing_that_is_guaranteed(
    cluster: tuple[list[WaitingJob], list[Place], list[RunningJob], dict[str, int]],
) -> None:
    waiting, places, running, guarantees = cluster
    planned = plan(waiting, places, running, guarantees)
    victims = [victim for each in planned for victim in each.victims]
    assert len({victim.id for victim in victims}) == len(victims), "nothing is taken twice"
    assert len({each.job.id for each in planned}) == len(planned)
    held = Counter[str]()
    for each in running:
        held[each.project_id] += 0 if each.is_ending else each.num_gpus
    for victim in victims:
        assert victim.may_stop
        assert not victim.is_ending
        held[victim.project_id] -= victim.num_gpus
        assert held[victim.project_id] >= guarantees[victim.project_id]
    for each in planned:
        assert each.job.project_id not in {victim.project_id for victim in each.victims}
        for fewer in combinations(each.victims, len(each.victims) - 1):
            sizes = sum(victim.num_gpus for victim in fewer)
            assert sizes < each.job.num_gpus, "one of them could have gone on"
    taken: defaultdict[str, int] = defaultdict(int)
    for running_job in running:
        if not running_job.is_ending and running_job not in victims:
            taken[running_job.machine] += running_job.num_gpus
    for each in planned:
        taken[each.machine] += each.job.num_gpus
    assert all(num_taken <= CARDS for num_taken in taken.values()), "it does not fit there"
    if len(planned) == 1 and len(waiting) == 1:
        assert sum(each.num_gpus for each in victims) == _fewest(
            planned[0].job, running, guarantees
        )


def _fewest(job: WaitingJob, running: Sequence[RunningJob], guarantees: dict[str, int]) -> int:
    """Return the fewest cards that any choice takes, by trying all."""
    staying = [each for each in running if not each.is_ending]
    held = Counter[str]()
    for each in staying:
        held[each.project_id] += each.num_gpus
    best = 1_000_000
    for machine in {each.machine for each in staying}:
        here = [each for each in staying if each.machine == machine]
        free = CARDS - sum(each.num_gpus for each in here)
        candidates = [each for each in here if each.may_stop and each.project_id != job.project_id]
        for number in range(len(candidates) + 1):
            for chosen in combinations(candidates, number):
                spent = Counter[str]()
                for each in chosen:
                    spent[each.project_id] += each.num_gpus
                num_freed = spent.total()
                keeps = all(
                    held[project_id] - num_gpus >= guarantees[project_id]
                    for project_id, num_gpus in spent.items()
                )
                if keeps and free + num_freed >= job.num_gpus:
                    best = min(best, num_freed)
    return best
