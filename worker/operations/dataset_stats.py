"""Answering what a file is to a model: a program of its own tokenizes, so that this process needs no tokenizer and survives any file."""

from pathlib import Path

from sqlalchemy import select

from app.models import Artifact, File, Inspection, OperationStatus
from app.operations import claims
from falqon_core.contract.inspection import Inspection as Result
from worker.attempt.scratch import scratch
from worker.attempt.staging import fetch_data
from worker.attempt.trainer import run_tool
from worker.fetching import fetch_artifacts
from worker.operations.runner import Heartbeat, OperationAbandoned, OperationRunner

WEIGHTS = ".safetensors"  # of a model only what its tokenizer needs is fetched


class Inspector(OperationRunner[Inspection]):
    kind = Inspection
    limit_seconds = 1800.0  # half an hour tokenizes a gigabyte on one core

    def _run(self, operation: Inspection, check: Heartbeat) -> None:
        with scratch(self._settings.work_dir / "inspections", f"{operation.id}.{operation.tries}") as folder:
            arguments = ["inspect", *self._inputs(operation, folder, check), "--max-seq-length", str(operation.max_seq_length)]
            written = run_tool(self._settings.trainer_command, arguments, check)
        result = Result.model_validate_json(written).model_dump(mode="json")
        with self._database.transaction() as session:
            if not claims.write(session, operation, status=OperationStatus.COMPLETED, result=result):
                raise OperationAbandoned

    def _inputs(self, asked: Inspection, folder: Path, check: Heartbeat) -> list[str]:
        """Fetched, as the program is told of them."""
        small = select(Artifact).where(Artifact.model_id == asked.model_id, Artifact.name.not_like(f"%{WEIGHTS}"))
        file_ids = [file_id for file_id in (asked.file_id, asked.validation_file_id) if file_id]
        with self._database.read() as session:
            files, artifacts = [session.get_one(File, file_id) for file_id in file_ids], session.scalars(small).all()
        fetch_artifacts(self._storage, artifacts, folder / "model", check)
        data, *validation = fetch_data(self._storage, files, folder, check)
        return [str(data), "--model", str(folder / "model"), *(f"--validation-file={path}" for path in validation)]
