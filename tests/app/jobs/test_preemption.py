"""Projects below their guaranteed share get cards back from those that borrow them."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from random import Random
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.jobs import claims, next_job, preemption, transitions
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Attempt, Checkpoint, Desired, Event, Job, JobStatus, Project, Worker
from app.workers import service as workers
from tests.app.jobs.test_shares import add_project, queue
from tests.support.schema import migrate_database

CARDS = 8  # Of a machine.
LEASE = 3600.0
NUM_TICKS = 12
SETTINGS = Settings(poll=timedelta(hours=1))


class Cluster:
    """Machines with a worker for each card, which take jobs as `worker.attempt.supervisor` does, in
    ticks.
    """

    def __init__(self, database: Database, num_machines: int, seed: int = 7) -> None:
        self.database = database
        self.free = {f"m{number}": set(range(CARDS)) for number in range(num_machines)}
        self.running: dict[str, tuple[Job, Claim, set[int]]] = {}  # By worker.
        self.left: dict[str, int] = {}  # Ticks of each job.
        self.held = Counter[str]()  # Cards of each project now.
        self.used = Counter[str]()  # Cards by ticks of each project.
        self.taken_back = 0  # Cards.
        self.times = Counter[str]()  # Preemptions of each job.
        self.seconds = (4, 8)
        self._random = Random(seed)
        self.look()

    def look(self) -> None:
        with self.database.transaction() as session:
            for machine in self.free:
                for number in range(CARDS):
                    name = f"{machine}-{number}"
                    workers.mark_seen(session, name, "h100", 1, CARDS, range(CARDS))

    def tick(self) -> None:
        for worker in list(self.running):
            self._go_on(worker)
        self.decide()
        with self.database.read() as session:
            stopped = [
                worker
                for worker, (_, claim, _) in self.running.items()
                if claims.is_preempted(session, claim)
            ]
        for worker in stopped:
            self._give_back(worker)
        for machine in self.free:
            workers_here = (f"{machine}-{number}" for number in range(CARDS))
            idle = [worker for worker in workers_here if worker not in self.running]
            # Where one finds nothing, the others do not either.
            all(self._take_next(worker, machine) for worker in idle)
        self.used += self.held

    def decide(self) -> None:
        for decided in preemption.preempt(self.database, SETTINGS):
            for victim in decided.victims:
                self.taken_back += victim.num_gpus
                self.times[victim.id] += 1

    def _go_on(self, worker: str) -> None:
        job, claim, _ = self.running[worker]
        self.left[job.id] -= 1
        if self.left[job.id] <= 0:
            with self.database.transaction() as session:
                assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
                workers.mark_ended(session, worker)
            self._free(worker)

    def _give_back(self, worker: str) -> None:
        _, claim, _ = self.running[worker]
        with self.database.transaction() as session:
            workers.mark_ended(session, worker)
            assert claims.release(
                session,
                claim,
                NewEvent("released"),
                counts_as_failure=False,
                max_infra_failures=0,
            )
        self._free(worker)

    def _free(self, worker: str) -> None:
        job, _, cards = self.running.pop(worker)
        self.free[worker.rpartition("-")[0]] |= cards
        self.held[job.project_id] -= job.num_gpus

    def _take_next(self, worker: str, machine: str) -> bool:
        num_free = CARDS
        while num_free:
            with self.database.read() as session:
                job = next_job.find_next(session, next_job.DeviceOffer("h100", num_free))
            if job is None:
                return False
            if job.num_gpus <= len(self.free[machine]):
                return self._claim(worker, machine, job.num_gpus)
            num_free = len(self.free[machine])
            with self.database.transaction() as session:
                if not num_free or next_job.hold_for(session, job.id, machine, LEASE):
                    return False
        return False

    def _claim(self, worker: str, machine: str, num_gpus: int) -> bool:
        cards = sorted(self.free[machine])[:num_gpus]
        with self.database.transaction() as session:
            job = claims.claim(
                session,
                owner=worker,
                device="h100",
                num_devices=1,
                lease_seconds=LEASE,
                cards=cards,
            )
        if job is None:
            return False
        self.free[machine] -= set(cards)
        self.running[worker] = job, Claim(job.id, job.attempt, worker), set(cards)
        self.held[job.project_id] += job.num_gpus
        self.left.setdefault(job.id, self._random.randint(*self.seconds))
        return True


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """Both databases run the same statements; thousands of claims take a while."""
    database = Database(f"sqlite:///{tmp_path / 'falqon.db'}")
    migrate_database(database)
    yield database
    database.dispose()


def test_three_teams_get_their_guarantees_back_from_the_one_that_borrowed_all(
    sqlite: Database,
) -> None:
    for project_id in "abc":
        add_project(sqlite, project_id, guaranteed_gpus=16)
    queue(sqlite, "b", 300)
    cluster = Cluster(sqlite, 6)
    cluster.seconds = (20, 40)
    cluster.tick()
    assert cluster.held == {"b": 48}
    queue(sqlite, "a", 75, 4)
    queue(sqlite, "c", 300)
    cluster.seconds = (4, 8)
    cluster.tick()
    assert cluster.held == {"a": 16, "b": 16, "c": 16}, "within one decision"
    assert cluster.taken_back == 32, "and not a card more"
    cluster.used.clear()
    for _ in range(NUM_TICKS):
        cluster.tick()
    for project_id in "abc":
        share = cluster.used[project_id] / cluster.used.total()
        assert abs(share - 1 / 3) <= 0.02, cluster.used
    assert cluster.used.total() >= 0.97 * NUM_TICKS * 6 * CARDS
    assert max(cluster.times.values()) == 1
    assert cluster.taken_back <= 32 + 4, "all hold what is theirs"


@hypothesis_settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    guarantees=st.sampled_from([(8, 4, 4), (4, 8, 4), (4, 4, 8), (8, 8, 0), (0, 4, 12), (4, 0, 0)]),
    sizes=st.tuples(*[st.sampled_from([1, 2, 4])] * 3),
    first=st.sampled_from("abc"),
)
def test_whoever_waits_gets_its_guarantee_and_nothing_is_taken_for_nothing(
    sqlite: Database, guarantees: tuple[int, ...], sizes: tuple[int, ...], first: str
) -> None:
    with sqlite.transaction() as session:
        for table in (Event, Attempt, Job, Worker):
            session.execute(delete(table))
    for project_id, guaranteed in zip("abc", guarantees, strict=True):
        with sqlite.transaction() as session:
            found = session.get(Project, project_id)
            if found is not None:
                found.guaranteed_gpus, found.virtual_time, found.virtual_start = guaranteed, 0, 0
        if found is None:
            add_project(sqlite, project_id, guaranteed_gpus=guaranteed)
    cluster = Cluster(sqlite, 2)
    cluster.seconds = (1000, 1000)
    size = dict(zip("abc", sizes, strict=True))
    queue(sqlite, first, 16, size[first])
    cluster.tick()
    for project_id in "abc":
        if project_id != first:
            queue(sqlite, project_id, 16, size[project_id])
    for _ in range(4):
        cluster.tick()
    settled = cluster.taken_back
    owned = dict(zip("abc", guarantees, strict=True))
    for project_id, guaranteed in owned.items():
        # A job has all of its cards or none, and one that would leave its project with less than
        # its guarantee is not stopped.
        missing = guaranteed - cluster.held[project_id]
        rest = max((cluster.held[other] - owned[other]) % size[other] for other in "abc")
        assert missing < size[project_id] + rest + 1 or guaranteed < size[project_id]
    for _ in range(3):
        cluster.tick()
    assert cluster.taken_back == settled, "it has come to rest"
    assert max(cluster.times.values(), default=0) <= 1


@pytest.fixture
def claim(database: Database) -> Claim:
    """A job of `b` on the only worker, and `a` is guaranteed a card."""
    add_project(database, "a", guaranteed_gpus=1)
    add_project(database, "b")
    queue(database, "b", 1)
    return take(database)


def take(database: Database) -> Claim:
    with database.transaction() as session:
        workers.mark_seen(session, "m-0", "h100", 1)
        job = claims.claim(session, owner="m-0", device="h100", num_devices=1, lease_seconds=LEASE)
    assert job is not None
    return Claim(job.id, job.attempt, "m-0")


def preempt(database: Database) -> list[str]:
    decided = preemption.preempt(database, SETTINGS)
    return [victim.id for each in decided for victim in each.victims]


def must_stop(database: Database, claim: Claim) -> bool:
    with database.read() as session:
        return claims.is_preempted(session, claim)


def release(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        workers.mark_ended(session, claim.owner)
        event = NewEvent("released")
        assert claims.release(session, claim, event, counts_as_failure=False, max_infra_failures=0)


def read(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def waiting_of(database: Database, project_id: str) -> str:
    queue(database, project_id, 1)
    with database.read() as session:
        ids = select(Job.id).where(Job.project_id == project_id, Job.status == JobStatus.QUEUED)
        return session.scalars(ids.order_by(Job.id.desc())).first() or ""


def messages(database: Database, job_id: str) -> list[Event]:
    with database.read() as session:
        rows = select(Event).where(Event.job_id == job_id).order_by(Event.seq)
        return list(session.scalars(rows))


@pytest.mark.both_databases
def test_a_job_that_borrows_gives_its_card_and_is_told_to_whom(
    database: Database, claim: Claim
) -> None:
    assert preempt(database) == []
    waiting = waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]
    assert preempt(database) == [], "it has been decided"
    assert must_stop(database, claim)
    told = messages(database, claim.job_id)[-1]
    assert told.message.startswith("The project 'a' holds less than its guaranteed share and gets")
    assert told.data == {"code": "preempted", "project": "a"}
    assert messages(database, waiting)[-1].message == (
        "1 GPU of jobs that borrow is taken back for this job"
    )
    release(database, claim)
    assert preempt(database) == [], "its card is free"
    job = read(database, claim.job_id)
    assert (job.status, job.infra_failures, job.preempted_for) == (JobStatus.QUEUED, 0, None)
    assert take(database).job_id == waiting, "whose project comes first"


@pytest.mark.both_databases
def test_a_job_is_not_preempted_again_soon(database: Database, claim: Claim) -> None:
    first = waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]
    release(database, claim)
    taken = take(database)
    assert taken.job_id == first
    with database.transaction() as session:
        assert claims.finish(session, taken, JobStatus.SUCCEEDED, NewEvent("done"))
    again = take(database)
    assert again.job_id == claim.job_id
    waiting_of(database, "a")
    assert preempt(database) == []
    with database.transaction() as session:
        long_ago = now_plus(-preemption.SPARED.total_seconds() - 1)
        session.execute(update(Job).where(Job.id == again.job_id).values(preempted_at=long_ago))
    assert preempt(database) == [again.job_id]


@pytest.mark.both_databases
@pytest.mark.parametrize("change", [transitions.cancel, transitions.pause])
def test_nobody_stops_for_a_job_that_no_longer_waits(
    database: Database, claim: Claim, change: object
) -> None:
    waiting = waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]
    with database.transaction() as session:
        change(session, "a", waiting)  # type: ignore[operator]
    assert not must_stop(database, claim), "with the next heartbeat"
    assert preempt(database) == []
    assert read(database, claim.job_id).preempted_for is None
    assert "keeps its GPUs" in messages(database, claim.job_id)[-1].message
    later = waiting_of(database, "a")
    assert preempt(database) == [], "and it is not asked again soon"
    release(database, claim)
    assert take(database).job_id == later


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("desired", "expected"),
    [(Desired.CANCEL, JobStatus.CANCELLED), (Desired.PAUSE, JobStatus.PAUSED)],
)
def test_the_user_of_a_preempted_job_has_the_last_word(
    database: Database, claim: Claim, desired: Desired, expected: JobStatus
) -> None:
    waiting = waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]
    change = transitions.cancel if desired is Desired.CANCEL else transitions.pause
    with database.transaction() as session:
        change(session, "b", claim.job_id)
    assert preempt(database) == []
    release(database, claim)
    assert read(database, claim.job_id).status == expected
    assert preempt(database) == []
    assert take(database).job_id == waiting


@pytest.mark.both_databases
def test_a_worker_that_dies_meanwhile_costs_nothing_more(database: Database, claim: Claim) -> None:
    waiting = waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]
    with database.transaction() as session:
        expired = {"lease_expires_at": now_plus(-1)}
        session.execute(update(Job).where(Job.id == claim.job_id).values(**expired))
    assert preempt(database) == [], "nobody else could give a card"
    with database.transaction() as session:
        assert claims.rescue(session, max_infra_failures=3) == [claim.job_id]
    job = read(database, claim.job_id)
    assert (job.status, job.preempted_for) == (JobStatus.QUEUED, None)
    assert preempt(database) == []
    assert take(database).job_id == waiting


@pytest.mark.both_databases
def test_any_number_of_schedulers_decide_once(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        for number in range(1, 4):
            workers.mark_seen(session, f"n-{number}", "h100", 1)
    queue(database, "b", 3)
    for number in range(1, 4):
        with database.transaction() as session:
            assert claims.claim(
                session,
                owner=f"n-{number}",
                device="h100",
                num_devices=1,
                lease_seconds=LEASE,
            )
    waiting_of(database, "a")
    barrier = Barrier(6)

    def decide(_: int) -> list[str]:
        barrier.wait()
        return preempt(database)

    with ThreadPoolExecutor(6) as pool:
        decided = [job_id for ids in pool.map(decide, range(6)) for job_id in ids]
    assert len(decided) == 1
    with database.read() as session:
        marked = session.scalars(select(Job.id).where(Job.preempted_for.is_not(None))).all()
    assert marked == decided


@pytest.mark.both_databases
def test_the_last_checkpoint_decides_whose_card_it_is(database: Database, claim: Claim) -> None:
    queue(database, "b", 1)
    with database.transaction() as session:
        workers.mark_seen(session, "n-1", "h100", 1)
        other = claims.claim(
            session, owner="n-1", device="h100", num_devices=1, lease_seconds=LEASE
        )
        assert other is not None
        began = now_plus(-900)
        session.execute(update(Attempt).values(created_at=began))
        session.add(
            Checkpoint(
                id="ftckpt_1",
                job_id=claim.job_id,
                project_id="b",
                attempt=1,
                step=5,
                storage_prefix="k",
                manifest_sha256="0",
                bytes=1,
                metrics={},
                created_at=now_plus(-60),
            )
        )
    waiting_of(database, "a")
    assert preempt(database) == [claim.job_id]


def test_without_a_guarantee_nobody_is_preempted(database: Database, claim: Claim) -> None:
    add_project(database, "c")
    waiting_of(database, "c")
    assert preempt(database) == []
    with database.transaction() as session:
        session.execute(update(Project).where(Project.id == "a").values(guaranteed_gpus=0))
    waiting_of(database, "a")
    assert preempt(database) == []


def test_a_ceiling_below_the_guarantee_wins(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        session.execute(update(Project).where(Project.id == "a").values(max_running_gpus=0))
    waiting_of(database, "a")
    assert preempt(database) == []
