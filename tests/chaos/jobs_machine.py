"""What users, workers, zombies and the reconciler may do to jobs, each beside a plain model."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now_plus
from app.base.errors import IllegalState, NotFound
from app.base.ids import new_id
from app.base.storage import keys
from app.files import repository as files
from app.jobs import claims, creation, idempotency, transitions
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import (
    DEFAULT_PROJECT_ID,
    Attempt,
    Desired,
    Event,
    File,
    FileStatus,
    Job,
    JobStatus,
    Scope,
)
from app.models.falqon_options import ANY_DEVICE, FalqonOptions
from app.models.job_lifecycle import TERMINAL, TRANSITIONS
from app.models.job_progress import JobProgress
from app.models.job_request import JobRequest
from app.workers import service as workers
from tests.chaos.model import MAX_INFRA_FAILURES, Check, ModelJob
from tests.support.backend import BASE_MODEL, Backend
from tests.support.checks import check_file

MAX_JOBS = 12
WORKERS = ("worker-1", "worker-2", "worker-3", "worker-4")
CALLER = Caller("key_a", DEFAULT_PROJECT_ID, Scope.WRITE, None, use_is_due=False)
LEASE_SECONDS = 600.0
DEVICES = ("cpu", "h100")
EVENT = NewEvent("told")
CONTENT = {True: b'{"text": "sound"}\n', False: b"no json\n"}
any_of = strategies.integers(0, 50)  # which one, of however many there are
few = strategies.integers(1, 3)


class JobsMachine(RuleBasedStateMachine):
    def __init__(self, backend: Backend, rule_counts: Counter[str]) -> None:
        super().__init__()
        self.backend = backend
        self.database = backend.database
        self.rule_counts = rule_counts
        self.jobs: dict[str, ModelJob] = {}
        self.statuses: dict[str, JobStatus] = {}  # as the database last said
        self.zombies: list[Claim] = []
        with self.database.transaction() as session:
            session.execute(delete(Job))
            for device in DEVICES:
                workers.mark_seen(session, f"with-{device}", device, 1)
        self.files = {True: self._upload(), False: self._upload()}  # by whether it has been checked
        self._check(self.files[True], sound=True)
        for _ in range(3):
            self.submit(checked=True, priority=0, gpu=ANY_DEVICE)

    # Users

    @precondition(lambda self: len(self.jobs) < MAX_JOBS)
    @rule(
        checked=strategies.sampled_from([True, True, False]),
        priority=strategies.integers(-1, 1),
        gpu=strategies.sampled_from([ANY_DEVICE, ANY_DEVICE, *DEVICES]),
    )
    def submit(self, checked: bool, priority: int, gpu: str) -> None:
        self.rule_counts["submit"] += 1
        job_id = self._submit(new_id("key-"), self.files[checked], priority, gpu)
        check = Check.PASSED if checked else Check.TO_COME
        assert job_id not in self.jobs
        self.jobs[job_id] = ModelJob(job_id, self.files[checked], priority, check, gpu)

    @precondition(lambda self: self.jobs)
    @rule(which=any_of)
    def submit_again(self, which: int) -> None:
        self.rule_counts["submit_again"] += 1
        job = self._pick(self.jobs.values(), which)
        with self.database.read() as session:
            key = session.get_one(Job, job.id).requested.suffix
        assert self._submit(key, job.file_id, job.priority, job.gpu) == job.id

    @precondition(lambda self: self.jobs)
    @rule(
        which=any_of,
        name=strategies.sampled_from(["pause", "resume", "resume", "cancel", "delete"]),
    )
    def request(self, which: int, name: str) -> None:
        self.rule_counts[name] += 1
        job = self._pick(self.jobs.values(), which)
        actions = {
            "pause": transitions.pause,
            "resume": self._resume,
            "cancel": transitions.cancel,
            "delete": transitions.delete,
        }
        permitted = job.status in TERMINAL if name == "delete" else getattr(job, name)()
        assert self._raises(IllegalState, actions[name], job.id) is not permitted
        if name == "delete" and permitted:
            del self.jobs[job.id], self.statuses[job.id]
            assert all(self._raises(NotFound, action, job.id) for action in actions.values())

    # Workers

    @precondition(lambda self: any(job.file_id == self.files[False] for job in self.jobs.values()))
    @rule(sound=strategies.booleans())
    def check_file(self, sound: bool) -> None:
        self.rule_counts["check_file"] += 1
        file_id = self.files[False]
        self._check(file_id, sound)
        for job in self.jobs.values():
            if job.file_id == file_id:
                job.check = Check.PASSED if sound else Check.FAILED
                job.settle()
        self.files[False] = self._upload()

    @precondition(lambda self: any(job.claimable for job in self.jobs.values()))
    @rule(num_workers=strategies.integers(1, len(WORKERS)), device=strategies.sampled_from(DEVICES))
    def claim(self, num_workers: int, device: str) -> None:
        """All at the same moment, and perhaps more of them than there are jobs."""
        self.rule_counts["claim"] += 1
        expected = self._queue(device)[:num_workers]
        won = self._claim(device, WORKERS[:num_workers])
        assert sorted(claim.job_id for claim in won) == sorted(job.id for job in expected)

    @precondition(lambda self: self._running())
    @rule(which=any_of)
    def renew(self, which: int) -> None:
        self.rule_counts["renew"] += 1
        job = self._pick(self._running(), which)
        with self.database.transaction() as session:
            assert claims.renew(session, self._claim_of(job), LEASE_SECONDS) is job.desired
        job.expired = False

    @precondition(lambda self: self._running())
    @rule(which=any_of, num_drafts=few)
    def record(self, which: int, num_drafts: int) -> None:
        self.rule_counts["record"] += 1
        job = self._pick(self._running(), which)
        with self.database.transaction() as session:
            assert claims.append_events(session, self._claim_of(job), [EVENT] * num_drafts)
        job.seq += num_drafts

    @precondition(lambda self: self._running())
    @rule(which=any_of, num_drafts=few, num_unheard=strategies.integers(0, 3))
    def relay(self, which: int, num_drafts: int, num_unheard: int) -> None:
        """The commit of the first few was answered by nobody, so they come again, with more behind
        them.
        """
        self.rule_counts["relay"] += 1
        job = self._pick(self._running(), which)
        before = job.relayed
        for count in (num_unheard, num_unheard + num_drafts):
            with self.database.transaction() as session:
                assert claims.append_trainer_events(
                    session, self._claim_of(job), [EVENT] * count, before
                )
            job.relay(before, count)

    @precondition(lambda self: self._running())
    @rule(which=any_of, counts=strategies.booleans())
    def release(self, which: int, counts: bool) -> None:
        self.rule_counts["release"] += 1
        job = self._pick(self._running(), which)
        claim = self._claim_of(job)
        with self.database.transaction() as session:
            assert claims.release(
                session,
                claim,
                EVENT,
                counts_as_failure=counts,
                max_infra_failures=MAX_INFRA_FAILURES,
            )
        job.hand_back(counts=counts)
        self.zombies.append(claim)

    @precondition(lambda self: self._running())
    @rule(which=any_of)
    def run_out_of_space(self, which: int) -> None:
        self.rule_counts["run_out_of_space"] += 1
        job = self._pick(self._running(), which)
        claim = self._claim_of(job)
        with self.database.transaction() as session:
            claims.pause(session, claim, "disk_full")
            assert claims.release(
                session,
                claim,
                EVENT,
                counts_as_failure=False,
                max_infra_failures=MAX_INFRA_FAILURES,
            )
        job.desired = Desired.PAUSE if job.desired is Desired.RUN else job.desired
        job.hand_back(counts=False)
        self.zombies.append(claim)

    @precondition(lambda self: self._running())
    @rule(
        which=any_of,
        status=strategies.sampled_from(
            [JobStatus.SUCCEEDED, JobStatus.SUCCEEDED, JobStatus.FAILED]
        ),
    )
    def finish(self, which: int, status: JobStatus) -> None:
        self.rule_counts["finish"] += 1
        job = self._pick(self._running(), which)
        claim = self._claim_of(job)
        with self.database.transaction() as session:
            done = claims.finish(session, claim, status, EVENT)
        assert done == job.finish(status)
        if done:
            self.zombies.append(claim)

    # What goes wrong

    @precondition(lambda self: self._running())
    @rule(which=any_of)
    def expire(self, which: int) -> None:
        self.rule_counts["expire"] += 1
        job = self._pick(self._running(), which)
        with self.database.transaction() as session:
            session.execute(
                update(Job).where(Job.id == job.id).values(lease_expires_at=now_plus(-1))
            )
        job.expired = True

    @precondition(lambda self: any(job.expired for job in self._running()))
    @rule()
    def rescue(self) -> None:
        self.rule_counts["rescue"] += 1
        expired = [job for job in self._running() if job.expired]
        self.zombies += [self._claim_of(job) for job in expired]
        with self.database.transaction() as session:
            rescued = claims.rescue(session, max_infra_failures=MAX_INFRA_FAILURES)
        assert sorted(rescued) == sorted(job.id for job in expired)
        for job in expired:
            job.hand_back(counts=True)

    @precondition(lambda self: self.zombies)
    @rule(which=any_of)
    def haunt(self, which: int) -> None:
        """Every write of a worker that has lost its job; the invariant finds nothing changed."""
        self.rule_counts["haunt"] += 1
        zombie = self._pick(self.zombies, which)
        with self.database.transaction() as session:
            claims.pause(session, zombie, "too late")
            assert claims.renew(session, zombie, LEASE_SECONDS) is None
            assert not claims.append_events(
                session, zombie, [EVENT], progress=JobProgress(step=666)
            )
            assert not claims.append_trainer_events(
                session, zombie, [EVENT], 0, progress=JobProgress(step=666)
            )
            assert not claims.finish(session, zombie, JobStatus.SUCCEEDED, EVENT)
            assert not claims.release(
                session, zombie, EVENT, counts_as_failure=True, max_infra_failures=0
            )

    # What always holds

    @invariant()
    def the_database_agrees(self) -> None:
        with self.database.read() as session:
            jobs = session.scalars(select(Job)).all()
            attempts = session.execute(
                select(Attempt.job_id, Attempt.number, Attempt.outcome).order_by(Attempt.number)
            ).all()
            counted = select(
                Event.job_id, func.count(), func.min(Event.seq), func.max(Event.seq)
            ).group_by(Event.job_id)
            events = {job_id: numbers for job_id, *numbers in session.execute(counted)}
        assert {job.id for job in jobs} == set(self.jobs)
        for job in jobs:
            model = self.jobs[job.id]
            stored = (job.status, job.desired, job.attempt, job.infra_failures)
            assert stored == (model.status, model.desired, model.attempt, model.infra_failures)
            assert (job.lease_owner, job.last_event_seq) == (model.owner, model.seq)
            assert events[job.id] == [model.seq, 1, model.seq], "a gap"
            numbered = [
                (number, outcome) for job_id, number, outcome in attempts if job_id == job.id
            ]
            assert numbered == list(enumerate(model.outcomes, start=1))
            assert job.progress is None, "a zombie's"
            assert (job.finished_at is not None) == (job.status in TERMINAL)
            assert not (model.cancel_acknowledged and job.status == JobStatus.SUCCEEDED)
            self._note(job.id, JobStatus(job.status))

    def _note(self, job_id: str, status: JobStatus) -> None:
        before = self.statuses.get(job_id, JobStatus.VALIDATING_FILES)
        assert (
            status is before
            or status in TRANSITIONS[before]
            or self._passed_through_validation(before, status)
        )
        self.statuses[job_id] = status

    @staticmethod
    def _passed_through_validation(before: JobStatus, status: JobStatus) -> bool:
        """The check had ended meanwhile, so resuming is two transitions in one transaction."""
        between = JobStatus.VALIDATING_FILES
        return between in TRANSITIONS[before] and status in TRANSITIONS[between]

    # How

    def _pick(self, things: Iterable[Any], which: int) -> Any:
        items = list(things)
        return items[which % len(items)]

    def _running(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.owner]

    def _queue(self, device: str) -> list[ModelJob]:
        waiting = [job for job in self.jobs.values() if job.claimable and job.runs_on(device)]
        return sorted(waiting, key=lambda job: (-job.priority, job.id))

    @staticmethod
    def _claim_of(job: ModelJob) -> Claim:
        assert job.owner
        return Claim(job.id, job.attempt, job.owner)

    def _claim(self, device: str, owners: Sequence[str]) -> list[Claim]:
        def claim(owner: str) -> Claim | None:
            with self.database.transaction() as session:
                job = claims.claim(
                    session, owner=owner, device=device, num_devices=1, lease_seconds=LEASE_SECONDS
                )
                return Claim(job.id, job.attempt, owner) if job else None

        with ThreadPoolExecutor(len(owners)) as pool:
            won = [result for result in pool.map(claim, owners) if result]
        for result in won:
            self.jobs[result.job_id].claim(result.owner)
            assert self._claim_of(self.jobs[result.job_id]) == result
        return won

    def _submit(self, key: str, file_id: str, priority: int, gpu: str) -> str:
        request = JobRequest(
            model=BASE_MODEL,
            training_file=file_id,
            suffix=key,
            priority=priority,
            falqon=FalqonOptions(gpu=gpu),
        )
        asking = idempotency.SubmissionRequest(
            CALLER, "create", request.model_dump(mode="json", exclude_unset=True), key
        )
        with self.database.transaction() as session:
            return creation.create_once(session, asking, request, self.backend.settings).id

    def _resume(self, session: Session, project_id: str, job_id: str) -> Job:
        return transitions.resume(session, project_id, job_id, self.backend.settings)

    def _raises(self, error: type[Exception], action: Callable[..., object], job_id: str) -> bool:
        try:
            with self.database.transaction() as session:
                action(session, DEFAULT_PROJECT_ID, job_id)
        except error:
            return True
        return False

    def _upload(self) -> str:
        file_id = new_id("file-")
        columns = {
            "filename": "a",
            "purpose": "fine-tune",
            "bytes": 1,
            "sha256": "0",
            "status": FileStatus.UPLOADED,
        }
        with self.database.transaction() as session:
            key = keys.file_content(DEFAULT_PROJECT_ID, file_id)
            file = File(id=file_id, project_id=DEFAULT_PROJECT_ID, storage_key=key, **columns)
            session.add(file)
            session.flush()
            files.add_check(session, file)
        return file_id

    def _check(self, file_id: str, sound: bool) -> None:
        self.backend.storage.put(keys.file_content(DEFAULT_PROJECT_ID, file_id), [CONTENT[sound]])
        check_file(self.database, self.backend.storage, file_id, self.backend.settings)
