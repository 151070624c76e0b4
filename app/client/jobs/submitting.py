"""`falqon jobs create` and `clone`: what it will take, a question, and one job however often the
request is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import typer

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import Misused, NoSuchObject, Refused
from app.client.jobs.estimate import show_estimate
from app.client.jobs.fields import naming_the_field
from app.client.jobs.watch import watch
from app.client.references import FILE, LAST, RANDOM_END
from app.client.uploading import checked, upload

JOBS = "/fine_tuning/jobs"
ID_PREFIX = "file-"
NOT_HERE_YET = "not-here-yet"  # Stands for the id of a file that is not uploaded yet.


@dataclass(frozen=True, slots=True)
class DataOption:
    """A file of a request: its id, or a path."""

    field: str
    option: str
    value: str | None

    @property
    def is_path(self) -> bool:
        return self.value is not None and not self.value.startswith(ID_PREFIX)


def data_options(file: str | None, validation_file: str | None) -> list[DataOption]:
    return [
        DataOption("training_file", "--file", file),
        DataOption("validation_file", "--validation-file", validation_file),
    ]


def with_data(client: Client, path: str, body: Json, options: Sequence[DataOption]) -> Json:
    """Return the request with the ids of its files. Those that are paths are uploaded now, unless
    the service refuses the rest of it: a refusal leaves no file.
    """
    given = [_with_id(client, option) for option in options if option.value is not None]
    ids = {option.field: option.value for option in given}
    if stand_ins := {option.field: NOT_HERE_YET for option in given if option.is_path}:
        _refuse_what_cannot_be(client, path, body | ids, stand_ins)
    return body | {option.field: _usable_file(client, option) for option in given}


def _with_id(client: Client, option: DataOption) -> DataOption:
    """Return the option with the id of the file that a short one names, unless it is a path."""
    assert option.value is not None
    is_short = option.value == LAST or RANDOM_END.fullmatch(option.value)
    if not is_short or Path(option.value).exists():
        return option
    return replace(option, value=FILE.resolve(client.api, option.value))


def _refuse_what_cannot_be(client: Client, path: str, body: Json, stand_ins: Json) -> None:
    """Send the request without its files, which the service checks last: one that is refused for
    them alone will do.
    """
    try:
        with naming_the_field(client.api):
            client.api.post(path, body | stand_ins, idempotency_key=str(uuid4()))
    except Refused as error:
        if error.body.get("param") not in stand_ins:
            raise


def _usable_file(client: Client, data: DataOption) -> str:
    """Return the id of a checked file."""
    assert data.value is not None
    if not data.is_path:
        file = _find_file(client, data.value)
    elif not Path(data.value).is_file():
        raise Misused(
            f"{data.option} {data.value} is neither a file here nor an id; "
            f"ids begin with '{ID_PREFIX}'."
        )
    else:
        file = upload(client, Path(data.value))
        client.out.say(f"Uploaded {file['filename']} as {file['id']}", "dim")
    return str(checked(client, file)["id"])


def _find_file(client: Client, file_id: str) -> Json:
    try:
        return client.api.get(f"/files/{segment(file_id)}")
    except NoSuchObject as error:
        if Path(file_id).is_file():
            error.hint = f"What begins with '{ID_PREFIX}' is an id; the file here is ./{file_id}"
        raise


def submit(client: Client, body: Json, *, yes: bool, then_watch: bool) -> None:
    with naming_the_field(client.api):
        estimate = client.api.post("/fine_tuning/estimates", body)
    show_estimate(client, estimate)
    if not yes:
        _ask(client, body)
    _created(
        client,
        client.api.post(JOBS, body, idempotency_key=str(uuid4())),
        then_watch=then_watch,
    )


def clone_path(job_id: str) -> str:
    return f"{JOBS}/{segment(job_id)}/clone"


def submit_clone(client: Client, job_id: str, changes: Json, *, then_watch: bool) -> None:
    job = client.api.post(clone_path(job_id), changes, idempotency_key=str(uuid4()))
    if job.get("estimate"):
        show_estimate(client, job["estimate"])
    _created(client, job, then_watch=then_watch)


def _ask(client: Client, body: Json) -> None:
    try:
        agreed = typer.confirm("Submit this job?", err=client.out.as_json)
    except typer.Abort:
        client.out.say("")  # The question has left the cursor behind it.
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
