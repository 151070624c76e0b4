import hashlib
import tempfile
from pathlib import Path

import openai

from tests.contract.journey.files import QUICK, records
from tests.contract.journey.traveller import Traveller, done, refused, same

CONTENT = records(QUICK)
HALF = len(CONTENT) // 2
ANNOUNCED = {
    "bytes": len(CONTENT),
    "filename": "rows.jsonl",
    "mime_type": "text/jsonl",
    "purpose": "fine-tune",
}


async def journey(traveller: Traveller) -> None:
    uploads = traveller.client.uploads
    files = traveller.client.files
    upload = await done(uploads.create(**ANNOUNCED))
    same(
        (upload.object, upload.status, upload.bytes, upload.file),
        ("upload", "pending", len(CONTENT), None),
    )
    same(upload.expires_at, upload.created_at + 3600)
    last = await done(uploads.parts.create(upload.id, data=CONTENT[HALF:]))
    first = await done(uploads.parts.create(upload.id, data=CONTENT[:HALF]))
    same((first.object, first.upload_id), ("upload.part", upload.id))
    wrong = {"part_ids": [first.id, last.id], "md5": hashlib.md5(b"other").hexdigest()}
    await refused(
        openai.BadRequestError, "md5_mismatch", uploads.complete, upload.id, **wrong, param="md5"
    )
    completed = await done(
        uploads.complete(upload.id, **wrong | {"md5": hashlib.md5(CONTENT).hexdigest()})
    )
    same(
        (completed.id, completed.status, completed.file.filename),
        (upload.id, "completed", "rows.jsonl"),
    )
    same((await done(files.content(completed.file.id))).read(), CONTENT)
    same(
        (await done(files.wait_for_processing(completed.file.id, poll_interval=0.1))).status,
        "processed",
    )

    cancelled = await done(uploads.create(**ANNOUNCED))
    same((await done(uploads.cancel(cancelled.id))).status, "cancelled")
    late = {"data": CONTENT}
    await refused(
        openai.BadRequestError,
        "upload_cancelled",
        uploads.parts.create,
        cancelled.id,
        **late,
        param="upload_id",
    )
    await refused(
        openai.NotFoundError, "not_found", uploads.cancel, "upload_unknown", param="upload_id"
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "from-disk.jsonl"
        path.write_bytes(CONTENT)
        on_disk = await done(
            uploads.upload_file_chunked(
                file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=900
            )
        )
    in_memory = {
        "file": CONTENT,
        "filename": "from-memory.jsonl",
        "bytes": len(CONTENT),
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    }
    for chunked in (on_disk, await done(uploads.upload_file_chunked(**in_memory, part_size=900))):
        same((chunked.status, chunked.file.bytes), ("completed", len(CONTENT)))
        same((await done(files.content(chunked.file.id))).read(), CONTENT)
