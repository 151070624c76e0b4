"""`falqon jobs create` and `clone`: what it will take, a question, and one job however often the
request is sent.
"""

from pathlib import Path
from uuid import uuid4

import typer

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import Misused, Refused
from app.client.jobs.estimate import show_estimate
from app.client.jobs.watch import watch
from app.client.uploading import checked, upload

ID_PREFIX = "file-"
STAND_IN = 1000  # records, and tokens, of data that is not there yet


def refuse_what_cannot_be(client: Client, body: Json, *, with_validation_file: bool) -> None:
    """Have the service look at a new job before its data is uploaded: a refusal leaves no file."""
    some_data = {"num_records": STAND_IN, "num_tokens": STAND_IN}
    files = {"validation_file": "not there yet"} if with_validation_file else {}
    client.api.post("/fine_tuning/estimates", body | files | {"training_data": some_data})


def usable_file(client: Client, file_or_id: str, option: str) -> str:
    """The id of a checked file: `named` is its id, or a path that is uploaded now."""
    if file_or_id.startswith(ID_PREFIX):
        file = client.api.get(f"/files/{segment(file_or_id)}")
    elif not Path(file_or_id).is_file():
        raise Misused(
            f"{option} {file_or_id} is neither a file here nor an id; ids begin with '{ID_PREFIX}'."
        )
    else:
        file = upload(client, Path(file_or_id))
        client.out.say(f"Uploaded {file['filename']} as {file['id']}", "dim")
    return str(checked(client, file)["id"])


def submit(client: Client, body: Json, *, yes: bool, then_watch: bool) -> None:
    show_estimate(client, client.api.post("/fine_tuning/estimates", body))
    if not yes:
        _ask(client, body)
    _created(
        client,
        client.api.post("/fine_tuning/jobs", body, idempotency_key=str(uuid4())),
        then_watch=then_watch,
    )


def submit_clone(client: Client, job_id: str, changes: Json, *, then_watch: bool) -> None:
    path = f"/fine_tuning/jobs/{segment(job_id)}/clone"
    job = client.api.post(path, changes, idempotency_key=str(uuid4()))
    if job.get("estimate"):
        show_estimate(client, job["estimate"])
    _created(client, job, then_watch=then_watch)


def _ask(client: Client, body: Json) -> None:
    try:
        agreed = typer.confirm("Submit this job?", err=client.out.as_json)
    except typer.Abort:
        client.out.say("")  # the question has left the cursor behind it
        agreed = False
    if not agreed:
        raise Refused(
            "Nothing was submitted.",
            f"--yes submits without asking; the data stays there as {body['training_file']}.",
        )


def _created(client: Client, job: Json, *, then_watch: bool) -> None:
    submitted = f"{job['id']} is submitted."
    if not then_watch:
        client.out.show(job, f"{submitted}\nFollow it with: falqon jobs watch {job['id']}")
        return
    if client.out.as_json:
        client.out.json_line(job)
    else:
        client.out.say(submitted)
    watch(client, job["id"])
