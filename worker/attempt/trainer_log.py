"""The text that a trainer writes beside its messages: read from its file while it grows, cleaned of
control characters and secrets, and stored. The text is arbitrary: neither a flood nor an endless
line takes more than a bounded amount of memory and of work at a time."""

import os
import re
import threading
from pathlib import Path
from typing import BinaryIO, Self

import structlog

from app.base.logging import redact_text
from app.base.terminal import plain
from app.models import Job
from app.models.trainer_log import HEAD_BYTES, TAIL_BYTES, TrainerLog
from worker.attempt.lease import LeaseLost
from worker.attempt.writer import AttemptWriter

MAX_LINE_BYTES = 16 * 2**10
MAX_SECRET_BYTES = 512
CHUNK_BYTES = 64 * 2**10
ESCAPE_PATTERN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # Escape sequences of a terminal.
log = structlog.get_logger()


class LogReader:
    """The log so far: its first lines, and the newest ones."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._head = bytearray()
        self._left_out = 0
        self._tail = bytearray()
        self._line = bytearray()  # The line that has not ended yet.
        self._cut = 0  # Bytes of it beyond the limit.
        self._is_torn = False  # Its beginning was skipped.

    @property
    def num_bytes(self) -> int:
        return len(self._head) + self._left_out + len(self._tail)

    @property
    def log(self) -> TrainerLog:
        return TrainerLog(
            head=self._head.decode(), left_out=self._left_out, tail=self._tail.decode()
        )

    def read(self) -> None:
        """Take in the lines that were written since; of a flood the newest."""
        waiting = os.fstat(self._file.fileno()).st_size - self._file.tell()
        while waiting > 0:
            chunk = self._file.read(min(waiting, CHUNK_BYTES))
            waiting -= len(chunk)
            self._add(chunk)
            if self._tail and waiting > TAIL_BYTES:
                self._skip(waiting - TAIL_BYTES)
                waiting = TAIL_BYTES

    def finish(self) -> None:
        """Take in all that is there, with a last line that has no end."""
        self.read()
        if self._line:
            self._keep(self._end_line())

    def _skip(self, num_bytes: int) -> None:
        self._file.seek(num_bytes, os.SEEK_CUR)
        self._left_out += len(self._tail) + num_bytes
        self._tail.clear()
        self._is_torn = True

    def _add(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self._extend(first)
        lines = bytearray()
        for other in others:
            lines += self._end_line()
            self._extend(other)
        self._keep(bytes(lines))

    def _extend(self, piece: bytes) -> None:
        """Add to the line; as on a terminal, a carriage return begins it again."""
        begin = piece.rstrip(b"\r").rfind(b"\r") + 1
        if begin or (piece and self._line.endswith(b"\r")):
            self._line.clear()
            self._cut = 0
        room = MAX_LINE_BYTES - len(self._line)
        self._line += piece[begin : begin + room]
        self._cut += max(0, len(piece) - begin - room)

    def _end_line(self) -> bytes:
        line, cut, is_torn = bytes(self._line), self._cut, self._is_torn
        self._line.clear()
        self._cut = 0
        self._is_torn = False
        if is_torn:  # it may begin within a secret
            self._left_out += len(line) + cut + 1
            return b""
        if cut:  # it may end within one
            line = redact_text(line.decode(errors="replace")).encode()[:-MAX_SECRET_BYTES]
            line += f" [{cut + MAX_SECRET_BYTES:,} bytes of this line are left out]".encode()
        return line + b"\n"

    def _keep(self, lines: bytes) -> None:
        text = clean(lines).encode()
        if not self._tail and not self._left_out:
            room = HEAD_BYTES - len(self._head)
            end = len(text) if len(text) <= room else text.rfind(b"\n", 0, room) + 1
            self._head += text[:end]
            text = text[end:]
        self._tail += text
        if (excess := len(self._tail) - TAIL_BYTES) > 0:
            end = self._tail.index(b"\n", excess - 1) + 1
            self._left_out += end
            del self._tail[:end]


class LogUploads:
    """Stores the log while the trainer runs and once it has ended, in a thread of its own, so that
    a slow upload holds up neither training nor metrics. A log that cannot be stored ends no job.
    """

    def __init__(self, writer: AttemptWriter, job: Job, path: Path, every_seconds: float) -> None:
        self._writer = writer
        self._job = job
        self._path = path
        self._every_seconds = every_seconds
        self._stored_bytes = 0
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trainer log", daemon=True)

    def __enter__(self) -> Self:
        self._path.touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def _work(self) -> None:
        with self._path.open("rb", buffering=0) as file:
            reader = LogReader(file)
            while not self._has_ended.wait(self._every_seconds):
                reader.read()
                self._store(reader)
            reader.finish()
            self._store(reader)

    def _store(self, reader: LogReader) -> None:
        if reader.num_bytes == self._stored_bytes:
            return
        content = reader.log
        writer = self._writer
        try:
            if writer.write(lambda: writer.gateway.store_log(self._job, writer.claim, content)):
                self._stored_bytes = content.num_bytes
        except LeaseLost:
            return
        # Top-level handler of a thread. Storage or database is unavailable, most likely: the next
        # upload may succeed.
        except Exception as error:
            log.warning("trainer's log not stored", job_id=self._job.id, error=repr(error))


def clean(lines: bytes) -> str:
    """Return text without control characters and likely secrets."""
    return plain(redact_text(ESCAPE_PATTERN.sub("", lines.decode(errors="replace"))))
