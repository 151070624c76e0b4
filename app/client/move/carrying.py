"""Carry out a planned move: the files first, then the jobs, the oldest first. What is refused is
noted with its object, and the others go on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from tempfile import TemporaryFile

from app.base.terminal import one_line
from app.client.api import segment
from app.client.command import Client
from app.client.errors import NoSuchObject, Refused
from app.client.move.account import Account
from app.client.move.plan import FileMove, JobMove, MovePlan, file_problem, obstacle
from app.client.move.request import job_body, key_of
from app.client.uploading import upload_content

MAX_NAME_LENGTH = 255


def carry_out(client: Client, account: Account, plan: MovePlan) -> None:
    for file in plan.due_files:
        with _noted(file):
            _copy(client, account, file)
            client.out.say(f"{file.origin.id} is here, sha256 {file.sha256}", "dim")
    for job in plan.due_jobs:
        # Only now is it known whether the files came, and the job that it continues.
        job.problem = file_problem(plan, job.origin) or obstacle(client, plan, job)
        if job.is_due:
            with _noted(job):
                _submit(client, plan, job)
                client.out.say(f"{job.origin.id} is submitted", "dim")


@contextmanager
def _noted(move: FileMove | JobMove) -> Iterator[None]:
    """Note a refusal; without a connection nothing can go on."""
    try:
        yield
    except (Refused, NoSuchObject) as error:
        move.problem = error.message
    except OSError as error:  # The temporary file could not be written.
        move.problem = f"this machine cannot keep it meanwhile: {error.strerror}"


def _copy(client: Client, account: Account, file: FileMove) -> None:
    name = PurePosixPath(one_line(file.origin.filename)).name[-MAX_NAME_LENGTH:]
    with TemporaryFile() as content:
        sha256 = account.download(file.origin, content)
        here = upload_content(
            client, name or file.origin.id, content, idempotency_key=key_of(file.origin.id)
        )
    if content_sha256(client, here["id"]) != sha256:
        raise Refused(f"{here['id']} is here with other bytes; delete it and run this again.")
    file.here = here
    file.sha256 = sha256


def _submit(client: Client, plan: MovePlan, job: JobMove) -> None:
    ids = [_id_here(plan, file_id) for file_id in job.origin.files]
    validation_file = ids[1] if len(ids) > 1 else None
    body = job_body(job.origin, job.model, ids[0], validation_file, keep=plan.keep_hyperparameters)
    job.here = client.api.post("/fine_tuning/jobs", body, idempotency_key=key_of(job.origin.id))


def content_sha256(client: Client, file_id: str) -> str:
    return client.api.sha256_of(f"/files/{segment(file_id)}/content")


def add_hashes(client: Client, plan: MovePlan) -> None:
    """Add what the service says of the files that were here before."""
    for file in plan.files.values():
        if file.here is not None and not file.sha256:
            file.sha256 = content_sha256(client, file.here["id"])


def _id_here(plan: MovePlan, file_id: str) -> str:
    here = plan.files[file_id].here
    assert here is not None, "a file that is not here has a problem, and so has its job"
    return str(here["id"])
