"""Choice of the jobs that give their cards back to projects below their guaranteed share. Pure: no
database, no clock.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.models.falqon_options import ANY_DEVICE

Cards = frozenset[int]


class Place(NamedTuple):
    """Worker that may take a job. `cards`: those of its machine that it may use; empty where none
    has a name, and all `max_gpus` are its own. `project_ids`: those that it serves; None: every
    project.
    """

    worker: str
    machine: str
    device: str
    max_gpus: int
    cards: Cards
    project_ids: frozenset[str] | None = None

    def suits(self, job: "WaitingJob") -> bool:
        """Return True if it could take the job, were its cards free."""
        serves = self.project_ids is None or job.project_id in self.project_ids
        return serves and job.num_gpus <= self.max_gpus and job.gpu in (ANY_DEVICE, self.device)


class RunningJob(NamedTuple):
    """Job on a worker. `lost_seconds`: since its last checkpoint, or since its attempt began.
    `may_stop`: it may be preempted. `is_ending`: its cards will be free in a moment anyway.
    """

    id: str
    attempt: int
    project_id: str
    worker: str
    machine: str
    num_gpus: int
    cards: Cards
    lost_seconds: float
    may_stop: bool = True
    is_ending: bool = False
    preempted_for: str | None = None


class WaitingJob(NamedTuple):
    """Job whose project holds less than its guarantee with it."""

    id: str
    project_id: str
    num_gpus: int
    gpu: str = ANY_DEVICE
    held_by: str | None = None  # The machine that keeps its free cards for the job.


class Preemption(NamedTuple):
    job: WaitingJob
    machine: str
    victims: tuple[RunningJob, ...]


class Loss(NamedTuple):
    """Loss by a choice of victims, in the order in which choices are compared."""

    num_gpus: int
    gpu_seconds: float
    victims: tuple[RunningJob, ...] = ()

    def plus(self, other: "Loss") -> "Loss":
        return Loss(
            self.num_gpus + other.num_gpus,
            self.gpu_seconds + other.gpu_seconds,
            self.victims + other.victims,
        )

    @property
    def rank(self) -> tuple[int, float, int]:
        return self.num_gpus, self.gpu_seconds, len(self.victims)


Choices = dict[int, Loss]  # By the number of cards that become free, the least loss.
NOTHING = Loss(0, 0.0)


def plan(
    waiting: Sequence[WaitingJob],
    places: Sequence[Place],
    running: Sequence[RunningJob],
    guarantees: Mapping[str, int],
) -> list[Preemption]:
    """Return the jobs to stop for those of `waiting`, in their order, that find no free cards.

    A project keeps what it is guaranteed. Of all choices the one that takes the fewest cards is
    made, of those the one that loses the least work. Cards of jobs that end anyway count as free,
    so nothing is taken twice for one job.
    """
    cluster = _Cluster(places, running, guarantees)
    planned = []
    # What has been taken for a job is its own, whoever comes before it now.
    served = {job.preempted_for for job in running}
    for job in sorted(waiting, key=lambda each: each.id not in served):
        if not cluster.has_room(job) and (found := cluster.find_victims(job)) is not None:
            planned.append(found)
    return planned


@dataclass
class _Cluster:
    """Cards as they will be once all that was decided has happened."""

    places: Sequence[Place]
    running: Sequence[RunningJob]
    guarantees: Mapping[str, int]
    _reserved: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _used: set[str] = field(default_factory=set)  # Workers that take a job.

    def __post_init__(self) -> None:
        self._held = Counter[str]()
        self._staying: defaultdict[str, list[RunningJob]] = defaultdict(list)  # By machine.
        for job in self.running:
            if not job.is_ending:
                self._staying[job.machine].append(job)
                self._held[job.project_id] += job.num_gpus

    def has_room(self, job: WaitingJob) -> bool:
        """Reserve cards that are free, or become so anyway; return False where too few are."""
        found = [
            (place.machine != job.held_by, len(free), place.worker, place, free)
            for place in self._list_places(job)
            if self._job_on(place) is None and len(free := self._free(place)) >= job.num_gpus
        ]
        if not found:
            return False
        *_, place, free = min(found)
        self._reserve(place, free, job.num_gpus)
        return True

    def find_victims(self, job: WaitingJob) -> Preemption | None:
        """Choose the jobs that give their cards to this one, and reserve them."""
        found = [
            (loss.rank, place.machine != job.held_by, place.worker, place, loss)
            for place in self._list_places(job)
            if (loss := self._least_loss(job, place)) is not None
        ]
        if not found:
            return None
        *_, place, loss = min(found)
        for victim in loss.victims:
            self._staying[victim.machine].remove(victim)
            self._held[victim.project_id] -= victim.num_gpus
        self._reserve(place, self._free(place), job.num_gpus)
        return Preemption(job, place.machine, loss.victims)

    def _list_places(self, job: WaitingJob) -> Iterable[Place]:
        return (
            place for place in self.places if place.worker not in self._used and place.suits(job)
        )

    def _job_on(self, place: Place) -> RunningJob | None:
        """Return the job of the worker; it does one at a time."""
        jobs = self._staying[place.machine]
        return next((job for job in jobs if job.worker == place.worker), None)

    def _free(self, place: Place) -> list[int]:
        """Return the cards that a job could have there, were the worker idle."""
        if not place.cards:
            return list(range(place.max_gpus))
        taken = {card for job in self._staying[place.machine] for card in job.cards}
        return sorted(place.cards - taken - self._reserved[place.machine])

    def _reserve(self, place: Place, free: Sequence[int], num_gpus: int) -> None:
        self._used.add(place.worker)
        if place.cards:
            self._reserved[place.machine].update(free[:num_gpus])

    def _least_loss(self, job: WaitingJob, place: Place) -> Loss | None:
        """Return the best choice of victims for this place; None where nothing suffices."""
        own = self._job_on(place)
        if own is not None and not self._may_take(own, job):
            return None
        needed = job.num_gpus - (len(self._free(place)) if place.cards else 0)
        start = {0: NOTHING}
        if own is not None:
            freed = needed if not place.cards else len(own.cards & place.cards)
            start = {min(needed, freed): Loss(own.num_gpus, _lost(own), (own,))}
        by_project: defaultdict[str, list[RunningJob]] = defaultdict(list)
        for other in self._staying[place.machine]:
            shares = other is not own and other.cards & place.cards
            if shares and self._may_take(other, job):
                by_project[other.project_id].append(other)
        best = start
        for project_id, jobs in sorted(by_project.items()):
            spent = own.num_gpus if own is not None and own.project_id == project_id else 0
            allowance = self._borrowed(project_id) - spent
            best = _combine(best, _choose(jobs, place.cards, needed, allowance), needed)
        return best.get(needed)

    def _may_take(self, victim: RunningJob, job: WaitingJob) -> bool:
        return (
            victim.may_stop
            and victim.project_id != job.project_id
            and victim.num_gpus <= self._borrowed(victim.project_id)
        )

    def _borrowed(self, project_id: str) -> int:
        return self._held[project_id] - self.guarantees.get(project_id, 0)


def _choose(jobs: Sequence[RunningJob], cards: Cards, needed: int, allowance: int) -> Choices:
    """Return what a project may lose, up to `allowance` cards in all."""
    best: Choices = {0: NOTHING}
    for job in jobs:
        freed = min(needed, len(job.cards & cards))
        with_job = _combine(best, {freed: Loss(job.num_gpus, _lost(job), (job,))}, needed)
        for num_freed, loss in with_job.items():
            if loss.num_gpus <= allowance and (
                num_freed not in best or loss.rank < best[num_freed].rank
            ):
                best = {**best, num_freed: loss}
    return best


def _combine(one: Choices, other: Choices, needed: int) -> Choices:
    """Return the least loss of each sum of cards, which `needed` bounds."""
    best: Choices = {}
    for first, second in ((first, second) for first in one for second in other):
        num_freed = min(needed, first + second)
        loss = one[first].plus(other[second])
        if num_freed not in best or loss.rank < best[num_freed].rank:
            best[num_freed] = loss
    return best


def _lost(job: RunningJob) -> float:
    return job.num_gpus * job.lost_seconds
