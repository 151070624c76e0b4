"""A file made of another one's good lines."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from app.auth.caller import Caller
from app.base.errors import IllegalState, TooLarge
from app.files import creation, lookup, service
from app.files.schemas import FileObject
from app.models import FileStatus
from app.services import Services
from falqon_core.records.file_check import good_lines
from falqon_core.records.jsonl import lines_of

MAX_RECORDS = 1_000_000  # Digests of them are kept in memory.
MAX_BYTES = 2**30  # Copied within one request.
DIGEST_BYTES = 16


def copy_good_lines(services: Services, caller: Caller, file_id: str) -> FileObject:
    """Store a new file without the bad lines of another one and without repeated lines."""
    with services.database.read() as session:
        file = lookup.get(session, caller.project_id, file_id)
        lookup.require_content(file)
    if file.report is None or file.status == FileStatus.UPLOADED:
        raise IllegalState(
            f"{file_id} has not been checked; wait for the verdict.",
            param="id",
            code="file_not_ready",
        )
    if not file.report.num_records:
        raise IllegalState(
            f"{file_id} has no good line to keep; correct it and upload it again.",
            param="id",
            code="no_good_lines",
        )
    if file.report.num_records > MAX_RECORDS or file.bytes > MAX_BYTES:
        raise TooLarge(
            f"{file_id}: a copy here has at most {MAX_RECORDS:,} records and {MAX_BYTES:,} bytes; "
            "download it without the bad lines, and upload that.",
            param="id",
        )
    lines = good_lines(lines_of(services.storage.chunks(file.storage_key)))
    return service.store_file(
        services,
        caller,
        without_repeats(lines),
        file.bytes,
        name=creation.validate_name(f"{PurePath(file.filename).stem}-clean.jsonl", "filename"),
    )


def without_repeats(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each line the first time that it comes."""
    seen: set[bytes] = set()
    for line in lines:
        digest = hashlib.blake2b(line, digest_size=DIGEST_BYTES).digest()
        if digest not in seen:
            seen.add(digest)
            yield line
