"""Compute statistics of a data set for a model: a program of its own tokenizes, so that this
process needs no tokenizer and survives any file.
"""

from pathlib import Path

from app.artifacts import repository as artifact_rows
from app.files import repository as file_rows
from app.models import DatasetStatistics
from app.operations import claims
from falqon_core.contract.inspection import Inspection as Result
from worker.attempt.staging import fetch_data
from worker.machine.subprocesses import run_tool
from worker.models.fetching import fetch_artifacts
from worker.operations.handler import Heartbeat, OperationAbandoned, OperationHandler

WEIGHTS_SUFFIX = ".safetensors"  # The tokenizer alone is fetched.


class DatasetStatisticsHandler(OperationHandler[DatasetStatistics]):
    kind = DatasetStatistics
    limit_seconds = 1800.0  # Half an hour tokenizes a gigabyte on one core.

    def _run(self, operation: DatasetStatistics, heartbeat: Heartbeat) -> None:
        with self._scratch(operation) as folder:
            arguments = [
                "inspect",
                *self._inputs(operation, folder, heartbeat),
                "--max-seq-length",
                str(operation.max_seq_length),
            ]
            if operation.chat_template_kwargs:
                arguments += ["--chat-template-kwargs", operation.chat_template_kwargs]
            output = run_tool(self._settings.trainer_command, arguments, heartbeat)
        result = Result.model_validate_json(output).model_dump(mode="json")
        with self._database.transaction() as session:
            if not claims.complete(session, operation, result=result):
                raise OperationAbandoned

    def _inputs(
        self, operation: DatasetStatistics, folder: Path, heartbeat: Heartbeat
    ) -> list[str]:
        """Fetch what the program reads; return the arguments that name it."""
        ids = [id_ for id_ in (operation.file_id, operation.validation_file_id) if id_]
        with self._database.read() as session:
            files = [file_rows.get(session, file_id) for file_id in ids]
            artifacts = artifact_rows.list_of_model(session, operation.model_id)
        small = [artifact for artifact in artifacts if not artifact.name.endswith(WEIGHTS_SUFFIX)]
        fetch_artifacts(self._storage, small, folder / "model", heartbeat)
        data, *validation = fetch_data(self._storage, files, folder, heartbeat)
        return [
            str(data),
            "--model",
            str(folder / "model"),
            *(f"--validation-file={path}" for path in validation),
        ]
