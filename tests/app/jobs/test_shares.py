"""Cards by project: the share of each on machines of several cards, and ceilings."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import insert, select, update

from app.base.database import Database
from app.base.ids import new_id
from app.jobs import claims, next_job
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Job, JobStatus, Model, Project
from app.models.job_request import JobRequest
from tests.support.rows import checked_file
from tests.support.schema import migrate_database

CARDS = 8  # Of a machine.
NUM_TICKS = 24


class Cluster:
    """Machines whose workers take jobs as `worker.attempt.supervisor` does, in ticks."""

    def __init__(self, database: Database, num_machines: int, seed: int) -> None:
        self.database = database
        self.free = dict.fromkeys((f"m{number}" for number in range(num_machines)), CARDS)
        self.ends: dict[int, list[tuple[str, Job]]] = defaultdict(list)
        self.held = Counter[str]()  # Cards of each project now.
        self.used = Counter[str]()  # Cards by ticks of each project.
        self.now = 0
        self._random = Random(seed)

    def tick(self) -> None:
        for machine, job in self.ends.pop(self.now, []):
            with self.database.transaction() as session:
                claim = Claim(job.id, job.attempt, machine)
                assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
            self.free[machine] += job.num_gpus
            self.held[job.project_id] -= job.num_gpus
        for machine in self.free:
            while self._take_next(machine):
                pass
        self.used += self.held
        self.now += 1

    def _take_next(self, machine: str) -> bool:
        """Take a job, or keep free cards for one that needs more; return False for neither."""
        num_free = CARDS
        while True:
            with self.database.read() as session:
                job = next_job.find_next(session, next_job.DeviceOffer("h100", num_free))
            if job is None:
                return False
            if job.num_gpus <= self.free[machine]:
                return self._claim(machine, job.num_gpus)
            num_free = self.free[machine]
            with self.database.transaction() as session:
                if not num_free or next_job.hold_for(session, job.id, machine, 3600):
                    return False

    def _claim(self, machine: str, num_gpus: int) -> bool:
        with self.database.transaction() as session:
            job = claims.claim(
                session,
                owner=machine,
                device="h100",
                num_devices=1,
                lease_seconds=3600,
                cards=range(num_gpus),
            )
        if job is None:
            return False
        self.free[machine] -= job.num_gpus
        self.held[job.project_id] += job.num_gpus
        self.ends[self.now + self._random.randint(4, 8)].append((machine, job))
        return True


def add_project(database: Database, project_id: str, **values: int) -> None:
    with database.transaction() as session:
        session.add(Project(id=project_id, name=project_id, **values))
        session.flush()
        session.add(checked_file(f"file-{project_id}", project_id))
        if session.get(Model, "tiny") is None:
            session.add(Model(id="tiny", config={}, bytes=1))


def queue(database: Database, project_id: str, num_jobs: int, num_gpus: int = 1) -> None:
    request = JobRequest(model="tiny", training_file=f"file-{project_id}")
    row = {
        "project_id": project_id,
        "status": "queued",
        "desired": "run",
        "base_model_id": "tiny",
        "training_file_id": f"file-{project_id}",
        "requested": request,
        "num_gpus": num_gpus,
    }
    with database.transaction() as session:
        session.execute(insert(Job), [row | {"id": new_id("ftjob-")} for _ in range(num_jobs)])


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """Both databases run the same statements; thousands of claims take a while."""
    database = Database(f"sqlite:///{tmp_path / 'falqon.db'}")
    migrate_database(database)
    yield database
    database.dispose()


def test_each_of_three_teams_gets_its_share_of_the_cards_of_six_machines(
    sqlite: Database,
) -> None:
    database = sqlite
    for project_id, num_gpus in zip("abc", (4, 1, 1), strict=True):
        add_project(database, project_id)
        queue(database, project_id, 300 // num_gpus, num_gpus)
    cluster = Cluster(database, 6, seed=7)
    for _ in range(8):
        cluster.tick()
    cluster.used.clear()
    for _ in range(NUM_TICKS):
        cluster.tick()
    for project_id in "abc":
        share = cluster.used[project_id] / cluster.used.total()
        assert abs(share - 1 / 3) <= 0.02, cluster.used
    assert cluster.used.total() >= 0.93 * NUM_TICKS * 6 * CARDS


def test_a_project_never_holds_more_cards_than_its_ceiling(database: Database) -> None:
    add_project(database, "limited", max_running_gpus=6)
    add_project(database, "other")
    queue(database, "limited", 10, 4)
    queue(database, "limited", 10)
    queue(database, "other", 20)
    cluster = Cluster(database, 2, seed=7)
    for _ in range(12):
        cluster.tick()
        assert cluster.held["limited"] <= 6
    assert cluster.used["limited"] >= 0.8 * 12 * 6
    with database.transaction() as session:
        session.execute(update(Project).values(max_running_gpus=0))
        waiting = session.scalars(select(Job.id).where(Job.status == JobStatus.QUEUED)).all()
    assert waiting
    for _ in range(9):
        cluster.tick()
    assert not cluster.held.total(), "a ceiling of 0 holds everything back"
