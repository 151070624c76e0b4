"""Answering what a file is to a model: a program of its own tokenizes, so that this process needs no tokenizer and survives any file."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from obstore.exceptions import BaseError
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.child_environment import offline_environment
from app.database import Database
from app.inspections import repository
from app.leash import leashed
from app.models import Artifact, File, Inspection
from app.settings import Settings
from app.storage import Storage, keys
from falqon_core.spec.inspection import Inspection as Result
from falqon_core.spec.messages import ENDLESS_TEMPLATE, ExitCode, Failed, decode
from worker.fetching import BytesDiffer, fetch
from worker.looking import Looker
from worker.scratch import scratch

LIMIT_SECONDS = 1800.0  # half an hour tokenizes a gigabyte on one core
TOO_SLOW = -signal.SIGXCPU
TICK_SECONDS = 0.5
WEIGHTS = ".safetensors"  # of a model only what its tokenizer needs is fetched
log = structlog.get_logger()


class Inspector(Looker):
    def __init__(self, settings: Settings, database: Database, storage: Storage, drain: threading.Event) -> None:
        super().__init__(drain)
        self._settings = settings
        self._database = database
        self._storage = storage

    def _do_next(self) -> bool:
        with self._database.transaction() as session:
            claimed = repository.claim(session, self._settings.lease.total_seconds())
        if claimed is None:
            return False
        try:
            answer = self._answer(claimed)
        except (FileNotFoundError, BytesDiffer) as error:
            answer = Failed(code="bytes_missing", message="What was uploaded is not in the storage as it should be.")
            log.error("inspection impossible", inspection_id=claimed.id, error=str(error))
        except (OSError, BaseError) as error:  # storage or disk; the claim grows stale, and then it is tried again
            log.warning("inspection not done", inspection_id=claimed.id, error=str(error))
            return True
        with self._database.transaction() as session:
            match answer:
                case Result():
                    repository.complete(session, claimed.id, answer.model_dump(mode="json"))
                case Failed():
                    repository.fail(session, claimed.id, answer.code, answer.message)
                case None:
                    repository.release(session, claimed.id)
        return True

    def _answer(self, asked: Inspection) -> Result | Failed | None:
        """None: this worker ends, or nobody wants the answer any more."""
        with self._database.read() as session:
            files, artifacts = _inputs(session, asked)
        with scratch(self._settings.work_dir / "inspections", asked.id) as folder:
            for artifact in artifacts:
                fetch(self._storage, artifact.storage_key, folder / "model" / keys.relative(artifact.name), artifact.sha256)
            for file in files:
                fetch(self._storage, file.storage_key, folder / file.id, file.sha256)
            arguments = [str(folder / asked.file_id), "--model", str(folder / "model"), "--max-seq-length", str(asked.max_seq_length)]
            if asked.validation_file_id:
                arguments += ["--validation-file", str(folder / asked.validation_file_id)]
            return self._run(asked.id, arguments, folder)

    def _run(self, inspection_id: str, arguments: Sequence[str], folder: Path) -> Result | Failed | None:
        read_end, write_end = os.pipe()
        output, errors = folder / "output.json", folder / "log"
        with os.fdopen(read_end, "rb") as messages, output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                leashed([*self._settings.trainer_command, "inspect", *arguments, "--message-fd", str(write_end)]),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[write_end],
                env=offline_environment(os.environ),
                start_new_session=True,
            )
            os.close(write_end)
            try:
                code = self._wait(process, inspection_id)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            told = messages.read()
        if code is None:
            return None
        if code == ExitCode.DONE:
            return Result.model_validate_json(output.read_bytes())
        log.warning("inspection failed", inspection_id=inspection_id, code=code, log=errors.read_text(errors="replace")[-2000:])
        return _failure(code, told)

    def _wait(self, process: "subprocess.Popen[bytes]", inspection_id: str) -> int | None:
        """The exit code, or None as `_answer` has it."""
        started = renewed = time.monotonic()
        while (now := time.monotonic()) < started + LIMIT_SECONDS:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(TICK_SECONDS)
            if self._drain.is_set():
                return None
            if now > renewed + self._settings.heartbeat.total_seconds():
                with self._database.transaction() as session:
                    if not repository.renew(session, inspection_id):
                        return None
                renewed = now
        return TOO_SLOW


def _inputs(session: Session, asked: Inspection) -> tuple[list[File], list[Artifact]]:
    wanted = [file_id for file_id in (asked.file_id, asked.validation_file_id) if file_id]
    small = select(Artifact).where(Artifact.model_id == asked.model_id, Artifact.name.not_like(f"%{WEIGHTS}"))
    return [session.get_one(File, file_id) for file_id in wanted], list(session.scalars(small))


def _failure(code: int, told: bytes) -> Failed:
    if code == TOO_SLOW:
        return Failed(code="too_slow", message=f"Tokenizing the file took more than {LIMIT_SECONDS / 60:g} minutes.")
    if code == ENDLESS_TEMPLATE:
        return Failed(code="model_refused", message="The model's chat template does not come to an end.", param="model")
    with suppress(ValidationError):
        if isinstance(message := decode(told.strip()), Failed):
            return message
    return Failed(code="internal_error", message="The inspection ended without an answer; the log of the worker holds the details.")
