"""Bring base models into the catalogue: a program of its own reads the source, here its files are
stored and become a model.
"""

import os
import time
from pathlib import Path

from app.base.processes.subprocess_env import hub_environment, offline_environment
from app.catalogue.importer import ModelNotAdded, add_folder, read_conversions
from app.models import ModelImport
from app.operations import claims
from app.source_tokens import repository as source_tokens
from worker.machine.subprocesses import run_tool
from worker.operations.handler import (
    MAX_ATTEMPTS,
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
    write_progress,
)
from worker.sources.download import Downloader, SourceRefused, SourceUnavailable

MAX_GGUF_BYTES = 2**40
WRITTEN_EVERY_SECONDS = 1.0


class ModelImportHandler(OperationHandler[ModelImport]):
    kind = ModelImport
    limit_seconds = 12 * 3600.0

    def _run(self, operation: ModelImport, heartbeat: Heartbeat) -> None:
        with self._scratch(operation) as folder:
            progress = _ImportProgress(self, operation, folder, heartbeat)
            conversions = self._bring(operation, folder, progress)
            try:
                add_folder(
                    self._database, self._storage, operation.model_id, folder / "model", progress
                )
            except ModelNotAdded as error:
                raise PermanentError("model_exists", str(error)) from error
            num_bytes = progress.num_bytes()
        values = {"bytes": num_bytes, "conversions": conversions}
        with self._database.transaction() as session:
            if not claims.complete(session, operation, **values):
                raise OperationAbandoned

    def write(self, operation: ModelImport, **values: object) -> None:
        write_progress(self._database, operation, **values)

    def _bring(
        self, operation: ModelImport, folder: Path, progress: "_ImportProgress"
    ) -> list[str]:
        """Make a plain folder of the source; return what was converted."""
        source = operation.source
        environment = offline_environment(os.environ)
        if source.startswith("hf://"):
            source = source.replace("hf://", "hf:", 1)
            environment = self._hub_environment(operation)
        elif "://" in source:
            source = str(self._fetch(source, folder / "model.gguf", progress))
        arguments = ["import", source, "--output", str(folder / "model")]
        output = run_tool(
            self._settings.trainer_command, arguments, progress, environment=environment
        )
        return read_conversions(output)

    def _hub_environment(self, operation: ModelImport) -> dict[str, str]:
        """Return what a download sees: the token of the project that asks comes before the
        operator's.
        """
        environment = hub_environment(os.environ)
        if self._settings.hub_endpoint:
            environment["HF_ENDPOINT"] = self._settings.hub_endpoint
        with self._database.read() as session:
            token = source_tokens.find(session, operation.project_id, "hf")
        if token is not None:
            environment["HF_TOKEN"] = token.secret["token"]
        return environment

    def _fetch(self, url: str, target: Path, progress: "_ImportProgress") -> Path:
        downloader = Downloader(self._settings.webhook_networks, progress)
        try:
            downloader.fetch(url, target, {}, MAX_GGUF_BYTES)
        except SourceRefused as error:
            raise PermanentError(error.code, error.message) from error
        except SourceUnavailable as error:
            if progress.operation.attempt < MAX_ATTEMPTS:
                raise
            raise PermanentError("source_unavailable", f"The source fails: {error}.") from error
        return target


class _ImportProgress:
    """A heartbeat that also writes down how many bytes are here."""

    def __init__(
        self,
        handler: ModelImportHandler,
        operation: ModelImport,
        folder: Path,
        heartbeat: Heartbeat,
    ) -> None:
        self.operation = operation
        self._handler = handler
        self._folder = folder
        self._heartbeat = heartbeat
        self._written_at = time.monotonic()

    def __call__(self) -> None:
        self._heartbeat()
        if time.monotonic() > self._written_at + WRITTEN_EVERY_SECONDS:
            self._written_at = time.monotonic()
            self._handler.write(self.operation, bytes=self.num_bytes())

    def num_bytes(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                total += path.stat().st_size if path.exists() else 0
        return total
