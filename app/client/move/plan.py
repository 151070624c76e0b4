"""The plan of a move: each file and job of the account, its copies here, and the obstacles of the
rest. Nothing is written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import NoSuchObject, Refused
from app.client.move.account import Account
from app.client.move.objects import OriginFile, OriginJob, parse
from app.client.move.request import ORIGIN, estimate_body, has_room, key_of

PURPOSE = "fine-tune"
METHODS = ("supervised", "dpo")
UNMOVED_STATUSES = ("failed", "cancelled")
FINE_TUNED = "ft:"
CHECKPOINT = ":ckpt-"
# Parts of the names of OpenAI's smaller models, and rows of `falqon models fit` for both sizes.
SMALL = ("mini", "nano", "gpt-3.5", "babbage", "davinci")
SMALL_BASES = ("Qwen3-4B", "Qwen3-8B")
LARGE_BASES = ("Qwen3-14B", "Qwen3-32B", "gpt-oss-20b")
NUM_FILTERED_PAIRS = 4  # Pairs of a job's metadata in one address, whose length is limited.


@dataclass
class FileMove:
    origin: OriginFile
    here: Json | None = None
    sha256: str = ""
    problem: str = ""

    @property
    def is_due(self) -> bool:
        return self.here is None and not self.problem


@dataclass
class JobMove:
    origin: OriginJob
    last_step: int | None = None  # Step of the newest checkpoint there.
    num_checkpoints: int | None = None  # Checkpoints there; not read once the job is here.
    model: str = ""  # The model that it is trained from here.
    here: Json | None = None
    estimate: Json | None = None
    problem: str = ""

    @property
    def stays(self) -> bool:
        """Return True if it has left no model there that could be trained here."""
        return self.origin.status in UNMOVED_STATUSES

    @property
    def is_due(self) -> bool:
        return self.here is None and not self.problem and not self.stays


@dataclass
class MovePlan:
    keep_hyperparameters: bool = False
    files: dict[str, FileMove] = field(default_factory=dict)
    jobs: list[JobMove] = field(default_factory=list)  # the oldest first
    # Models that no job of the list made there.
    other_models: list[str] = field(default_factory=list)
    models: dict[str, str | None] = field(default_factory=dict)  # here, by the name there

    @property
    def due_jobs(self) -> list[JobMove]:
        return [job for job in self.jobs if job.is_due]

    @property
    def due_files(self) -> list[FileMove]:
        return [file for file in self.files.values() if file.is_due]

    @property
    def num_problems(self) -> int:
        moves: list[FileMove | JobMove] = [*self.files.values(), *self.jobs]
        return sum(bool(move.problem) for move in moves)


def plan_move(client: Client, account: Account, *, keep_hyperparameters: bool) -> MovePlan:
    jobs = [parse(OriginJob, job) for job in account.list_all("/fine_tuning/jobs")]
    plan = MovePlan(keep_hyperparameters, jobs=[JobMove(job) for job in reversed(jobs)])
    for value in account.list_all("/files", purpose=PURPOSE):
        _add_file(client, plan, parse(OriginFile, value))
    for job in plan.jobs:
        if not job.stays:
            _add_missing_files(client, account, plan, job.origin)
    for job in plan.jobs:
        if not job.stays:
            _look_up(client, account, plan, job)
    for job in plan.jobs:
        if job.is_due:
            job.problem = obstacle(client, plan, job)
        if job.is_due:
            _estimate(client, plan, job)
    plan.other_models = _other_models(account, jobs)
    return plan


def file_problem(plan: MovePlan, job: OriginJob) -> str:
    """Say why a file of the job will not be here; nothing where it is or will be."""
    for file_id in job.files:
        if problem := plan.files[file_id].problem:
            return f"its file {file_id}: {problem}"
    return ""


def obstacle(client: Client, plan: MovePlan, job: JobMove) -> str:
    """Say what stands against submitting the job, or settle what it is trained from."""
    origin = job.origin
    if origin.status != "succeeded":
        return f"it is {origin.status} there; run this again when it has ended"
    if origin.method_type not in METHODS:
        return f"method {origin.method_type} is not supported; {' and '.join(METHODS)} are"
    if problem := file_problem(plan, origin):
        return problem
    parent = next(
        (other for other in plan.jobs if other.origin.fine_tuned_model == origin.model), None
    )
    if parent is not None:
        return _continue_from(job, parent)
    if origin.model not in plan.models:
        plan.models[origin.model] = _model_here(client, origin.model)
    job.model = plan.models[origin.model] or ""
    if job.model:
        return ""
    return (
        f"no model here stands for '{origin.model}'; "
        f"`falqon aliases set {origin.model} MODEL` names one, such as "
        f"{' or '.join(proposed_bases(origin.model))}; `falqon models fit` says which of them a "
        "card trains"
    )


def proposed_bases(name: str) -> tuple[str, ...]:
    """Return open models of the size that takes the place of an OpenAI model."""
    return SMALL_BASES if any(word in name for word in SMALL) else LARGE_BASES


def _model_here(client: Client, name: str) -> str | None:
    try:
        return str(client.api.get(f"/models/{segment(name)}", repeatable=True)["id"])
    except NoSuchObject:
        return None


def _continue_from(job: JobMove, parent: JobMove) -> str:
    job.model = (parent.here or {}).get("fine_tuned_model") or ""
    if job.model:
        return ""
    return (
        f"it continues {parent.origin.id}, which has to be trained here first; "
        "run this again when it has succeeded"
    )


def _add_file(client: Client, plan: MovePlan, origin: OriginFile) -> None:
    page = client.api.get("/files", {"idempotency_key": key_of(origin.id)}, repeatable=True)
    plan.files[origin.id] = FileMove(origin, here=next(iter(page["data"]), None))


def _add_missing_files(client: Client, account: Account, plan: MovePlan, job: OriginJob) -> None:
    """Look up the files of a job that the account's list does not have."""
    for file_id in job.files:
        if file_id in plan.files:
            continue
        value = account.find(f"/files/{segment(file_id)}")
        if value is not None:
            _add_file(client, plan, parse(OriginFile, value))
            continue
        deleted = OriginFile(id=file_id, filename="", bytes=0)
        _add_file(client, plan, deleted)
        if plan.files[file_id].here is None:
            plan.files[file_id].problem = "it has been deleted there"


def _look_up(client: Client, account: Account, plan: MovePlan, job: JobMove) -> None:
    """Look for the job here, or else for what it has left there."""
    if has_room(job.origin):
        job.here = next(_jobs_with(client, {ORIGIN: job.origin.id}), None)
    else:
        job.here = _find_without_origin(client, plan, job.origin)
    if job.here is not None:
        return
    path = f"/fine_tuning/jobs/{segment(job.origin.id)}/checkpoints"
    checkpoints = list(account.list_all(path))
    job.num_checkpoints = len(checkpoints)
    job.last_step = max(
        (point["step_number"] for point in checkpoints if isinstance(point["step_number"], int)),
        default=None,
    )


def _find_without_origin(client: Client, plan: MovePlan, origin: OriginJob) -> Json | None:
    """Return the oldest job here that could be this one, by what it has besides its origin, and
    that is no other job of the plan.
    """
    metadata = origin.metadata or {}
    shortest = sorted(metadata.items(), key=lambda pair: len(pair[0]) + len(pair[1]))
    file = plan.files[origin.training_file].here
    expected: Json = {"metadata": metadata, "suffix": origin.clean_suffix}
    if origin.seed is not None:
        expected["seed"] = origin.seed
    if file is not None:
        expected["training_file"] = file["id"]
    others = {other.here["id"] for other in plan.jobs if other.here is not None}
    oldest = None
    for job in _jobs_with(client, dict(shortest[:NUM_FILTERED_PAIRS])):  # the newest first
        if job["id"] not in others and expected.items() <= job.items():
            oldest = job
    return oldest


def _jobs_with(client: Client, metadata: dict[str, str]) -> Iterator[Json]:
    query: dict[str, str | int] = {f"metadata[{name}]": text for name, text in metadata.items()}
    while True:
        page = client.api.get("/fine_tuning/jobs", query, repeatable=True)
        yield from page["data"]
        if not page.get("has_more") or not page["data"]:
            return
        query["after"] = page["data"][-1]["id"]


def _estimate(client: Client, plan: MovePlan, job: JobMove) -> None:
    file = plan.files[job.origin.training_file]
    body = estimate_body(
        job.origin,
        job.model,
        file.origin.bytes,
        job.last_step,
        keep=plan.keep_hyperparameters,
    )
    here = [plan.files[file_id].here or {} for file_id in job.origin.files]
    if all(each.get("status") == "processed" for each in here):
        del body["training_data"]
        names = ("training_file", "validation_file")
        body |= {name: each["id"] for name, each in zip(names, here, strict=False)}
    try:
        job.estimate = client.api.post("/fine_tuning/estimates", body, repeatable=True)
    except Refused as refusal:
        job.problem = refusal.message


def _other_models(account: Account, jobs: Iterable[OriginJob]) -> list[str]:
    of_jobs = {job.fine_tuned_model for job in jobs}
    ids = [str(model["id"]) for model in account.get("/models", repeatable=True).get("data") or []]
    return [
        id_
        for id_ in ids
        if id_.startswith(FINE_TUNED) and CHECKPOINT not in id_ and id_ not in of_jobs
    ]
