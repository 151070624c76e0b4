import inspect
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import openai

from tests.contract.journey.traveller import (
    Traveller,
    done,
    each,
    every,
    ids,
    refused,
    same,
    streamed,
)

QUICK = {"steps": 10, "checkpoint_every": 2, "best_at": 4}
FAILING = {"steps": 10, "user_error_at": 3}
SLOW = {"steps": 5000, "step_seconds": 0.02, "checkpoint_every": 1000}


def records(fake: dict[str, Any]) -> bytes:
    """A training file that tells the fake trainer what to do, and rows enough for several pages of
    bytes.
    """
    rows = [json.dumps({"text": json.dumps(fake)})] + [
        json.dumps({"text": f"Row {number} of a file."}) for number in range(40)
    ]
    return ("\n".join(rows) + "\n").encode()


async def uploaded(traveller: Traveller, fake: dict[str, Any]) -> str:
    files = traveller.client.files
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(records(fake))
        with path.open("rb") as opened:
            file = await done(files.create(file=opened, purpose="fine-tune"))
    same(
        (file.object, file.filename, file.bytes, file.purpose),
        ("file", "rows.jsonl", len(records(fake)), "fine-tune"),
    )
    ready = await done(files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=60))
    same((ready.id, ready.status, ready.report["num_records"]), (file.id, "processed", 41))
    return str(file.id)


async def journey(traveller: Traveller) -> None:
    files = traveller.client.files
    first = await uploaded(traveller, QUICK)
    content = records(QUICK)
    path_like = await done(
        files.create(file=("r\u00fcckblick.txt", io.BytesIO(b"seen")), purpose="user_data")
    )
    same((path_like.filename, path_like.status), ("r\u00fcckblick.txt", "processed"))
    lifetime: dict[str, Any] = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    if "expires_after" not in inspect.signature(files.create).parameters:
        lifetime = {"extra_body": lifetime}
    raw = await done(files.create(file=b"{}", purpose="batch", **lifetime))
    same((raw.filename, raw.expires_at), ("upload", raw.created_at + 3600))
    newest_first = [raw.id, path_like.id, first]

    same((await done(files.retrieve(first))).status_details, "41 records (text)")
    same(ids(await every(files.list(limit=2))), newest_first)
    same(ids(await every(files.list(limit=1, order="asc"))), newest_first[::-1])
    same(ids(await every(files.list(purpose="batch"))), [raw.id])
    page = await done(files.list(limit=2))
    same((page.has_more, page.has_next_page(), ids(page.data)), (True, True, newest_first[:2]))
    page = await done(page.get_next_page())
    same((page.has_next_page(), ids(page.data)), (False, newest_first[2:]))

    same((await done(files.content(first))).read(), content)
    same((await done(files.content(first))).text, content.decode())
    with tempfile.TemporaryDirectory() as folder:
        (await done(files.content(first))).write_to_file(Path(folder) / "copy")
        same((Path(folder) / "copy").read_bytes(), content)
    same(await done(files.retrieve_content(first)), content.decode())
    same(await streamed(files.with_streaming_response.content(first)), content)
    part = await done(
        files.with_raw_response.content(first, extra_headers={"Range": "bytes=10-19"})
    )
    same((part.status_code, part.content), (206, content[10:20]))

    deleted = await done(files.delete(raw.id))
    same((deleted.id, deleted.object, deleted.deleted), (raw.id, "file", True))
    for gone in (files.retrieve, files.content, files.delete):
        await refused(openai.NotFoundError, "not_found", gone, raw.id, param="id")
    await refused(
        openai.BadRequestError,
        "invalid_value",
        files.create,
        file=b"{}",
        purpose="fine-tune-results",
        param="purpose",
    )
    await refused(
        openai.BadRequestError, "invalid_cursor", files.list, after="file-unknown", param="after"
    )
    await _a_faulty_file(traveller)
    async for file in each(files.list(limit=1)):
        await done(files.delete(file.id))
    same(await every(files.list()), [])


async def _a_faulty_file(traveller: Traveller) -> None:
    files = traveller.client.files
    file = await done(
        files.create(file=("faulty.jsonl", b'{"text": "fine"}\n{oops}\n'), purpose="fine-tune")
    )
    started = time.monotonic()
    faulty = await done(files.wait_for_processing(file.id, poll_interval=0.1))
    assert time.monotonic() - started < 60, (
        "a file with a fault is waited for no longer than another"
    )
    same(faulty.status, "error")
    assert "line 2" in faulty.status_details, faulty.status_details
    jobs = traveller.client.fine_tuning.jobs
    arguments = {"model": traveller.model, "training_file": file.id}
    await refused(
        openai.BadRequestError,
        "invalid_training_file",
        jobs.create,
        **arguments,
        param="training_file",
    )
