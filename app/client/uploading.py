"""A local file becomes a File of the service, with its check waited for where that matters."""

import hashlib
import time
from io import SEEK_END
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import ApiUnavailable, Misused, Refused
from app.client.polling import poll
from app.client.references import TRAINING_PURPOSE

# Size of one part; a lost part is repeated by itself.
PART_BYTES = 64 * 2**20
TOO_LARGE = "request_too_large"
IN_PROGRESS = "completion_in_progress"
POLL_SECONDS = (0.1, 0.2, 0.5, 1.0)
MAX_CHECK_SECONDS = 1800.0  # The official client waits as long.
MAX_COMPLETION_SECONDS = 1800.0


def upload(client: Client, path: Path, *, purpose: str = TRAINING_PURPOSE) -> Json:
    try:
        file = path.open("rb")
    except OSError as error:
        raise Misused(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        if not file.seekable():
            raise Misused(f"{path} is a pipe; its size has to be known, so write it to a file.")
        return upload_content(client, path.name, file, purpose=purpose)


def upload_content(
    client: Client,
    name: str,
    file: BinaryIO,
    *,
    purpose: str = TRAINING_PURPOSE,
    idempotency_key: str | None = None,
) -> Json:
    """Upload an open file from its beginning; with an idempotency key it becomes one file however
    often that is done.
    """
    total = file.seek(0, SEEK_END)
    file.seek(0)
    columns = (
        TextColumn("Uploading {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    quiet = client.out.as_json or not client.out.console.is_terminal
    with Progress(*columns, console=client.out.console, transient=True, disable=quiet) as progress:
        content = progress.wrap_file(file, total=total, description=name)
        if total > PART_BYTES:
            return _in_parts(client, name, content, total, purpose, idempotency_key)
        try:
            return client.api.send_file(
                "/files", {"purpose": purpose}, (name, content), idempotency_key=idempotency_key
            )
        except Refused as error:  # The service chooses the limit of one request.
            if error.body.get("code") != TOO_LARGE:
                raise
        content.seek(0)
        return _in_parts(client, name, content, total, purpose, idempotency_key)


def _in_parts(
    client: Client,
    name: str,
    content: BinaryIO,
    total: int,
    purpose: str,
    idempotency_key: str | None,
) -> Json:
    body = {"filename": name, "bytes": total, "mime_type": "application/jsonl", "purpose": purpose}
    path = f"/uploads/{segment(client.api.post('/uploads', body)['id'])}"
    parts = []
    digest = hashlib.md5(usedforsecurity=False)
    while part := content.read(PART_BYTES):
        digest.update(part)
        parts.append(client.api.send_part(f"{path}/parts", part)["id"])
    body = {"part_ids": parts, "md5": digest.hexdigest()}
    return complete(client, path, body, idempotency_key)


def complete(client: Client, path: str, body: Json, idempotency_key: str | None = None) -> Json:
    """Return the file of an upload, which an earlier call without an answer may still be making."""
    deadline = time.monotonic() + MAX_COMPLETION_SECONDS
    while True:
        try:
            done = client.api.post(
                f"{path}/complete", body, idempotency_key=idempotency_key, repeatable=True
            )
        except ApiUnavailable as error:
            if error.body.get("code") != IN_PROGRESS or time.monotonic() > deadline:
                raise
            time.sleep(error.wait_seconds)
        else:
            file: Json = done["file"]
            return file


def checked(client: Client, file: Json) -> Json:
    """The file once the service has judged it. Raises `Refused` if it is not valid."""
    deadline = time.monotonic() + MAX_CHECK_SECONDS
    for pause in chain(POLL_SECONDS, repeat(POLL_SECONDS[-1])):
        if file["status"] == "error":
            raise Refused(
                f"{file['filename']} ({file['id']}) is not valid: {file['status_details']}",
                f"All errors: falqon files report {file['id']}",
            )
        if file["status"] != "uploaded":
            return file
        if time.monotonic() > deadline:
            raise Refused(
                f"{file['id']} has not been checked after {MAX_CHECK_SECONDS:.0f} s.",
                f"Check again with: falqon files show {file['id']}",
            )
        time.sleep(pause)
        file = poll(
            client,
            f"/files/{segment(file['id'])}",
            how_to_go_on=f"The file is there; check again with: falqon files show {file['id']}",
        )
    raise AssertionError("the pauses never end")
