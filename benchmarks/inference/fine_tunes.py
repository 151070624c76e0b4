"""Many fine-tunes of one base, made of one job: its adapter with another B each, and its merged
model under another name each.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.models import DEFAULT_PROJECT_ID, Artifact, Model
from app.models.base import JsonObject
from benchmarks.api.servers import ROOT
from tests.support.adapters import add_adapter, write_variant
from tests.support.service import Service
from tests.support.waiting import wait_for

DATA = ROOT / "demo" / "support_desk.jsonl"
JOB_SECONDS = 1800.0
EXPORT_SECONDS = 600.0
POLL_SECONDS = 0.5
MOST_SCALE = 1.5
GGUF, ADAPTER = "model.gguf", "adapter.gguf"


@dataclass(frozen=True, slots=True)
class FineTune:
    """A job's model in both forms. `bound`: `Rounding` of the adapter."""

    base: str
    merged: Path
    adapter: Path
    merged_bytes: int  # that the storage holds
    adapter_bytes: int
    bound: Any


class Tenant:
    """The service's storage and database, and its one project."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self._folder = folder
        settings = Settings(_env_file=None, data_dir=service.folder)
        self.database = Database(settings.resolved_database_url)
        self._storage = Storage(settings.resolved_storage_url)

    def close(self) -> None:
        self.database.dispose()

    def fine_tune(self, base: str, max_steps: int) -> FineTune:
        """Train on the demo's data, and export both forms that llama.cpp loads."""
        client = self.service.client
        with DATA.open("rb") as data:
            file = client.files.create(file=data, purpose="fine-tune")
        client.files.wait_for_processing(file.id, poll_interval=POLL_SECONDS)
        recipe = {"max_steps": max_steps, "validation_fraction": 0.1, "num_samples": 0}
        options = recipe | {"evaluate": False}  # its engines would take memory, too
        job = client.fine_tuning.jobs.create(
            model=base, training_file=file.id, seed=1, extra_body={"falqon": options}
        )
        wait_for(
            lambda: client.fine_tuning.jobs.retrieve(job.id).finished_at is not None,
            JOB_SECONDS,
            "the job has ended",
            POLL_SECONDS,
        )
        ended = client.fine_tuning.jobs.retrieve(job.id)
        if ended.status != "succeeded":
            raise SystemExit(f"the job is {ended.status}: {ended.error}")
        model = str(ended.fine_tuned_model)
        bound = self._export(model, "gguf_lora")["rounding"]
        self._export(model, "gguf")
        return FineTune(
            base,
            self._fetch(f"{model}:gguf", GGUF),
            self._fetch(f"{model}:gguf_lora", ADAPTER),
            self._bytes_of(model),
            self._bytes_of(f"{model}:gguf_lora"),
            bound,
        )

    def add_shared(self, fine_tune: FineTune, number: int) -> list[str]:
        """Add so many models that are adapters."""
        names = [f"ft:{fine_tune.base}:shared::{index}:gguf_lora" for index in range(number)]
        path = self._folder / "variant.gguf"
        for seed, name in enumerate(names):
            write_variant(fine_tune.adapter, path, seed, MOST_SCALE)
            where = (self.database, self._storage, DEFAULT_PROJECT_ID)
            add_adapter(*where, name, fine_tune.base, path)
        return names

    def add_merged(self, fine_tune: FineTune, number: int) -> list[str]:
        """Add so many models that are whole; their files differ, as those of other jobs do."""
        names = [f"ft:{fine_tune.base}:merged::{index}:gguf" for index in range(number)]
        with self.database.read() as session:
            config = session.get_one(Model, fine_tune.base).config
        path = self._folder / "variant.gguf"
        for name in names:
            shutil.copyfile(fine_tune.merged, path)
            with path.open("ab") as file:  # llama.cpp reads tensors by their offsets
                file.write(name.encode())
            self._add(name, fine_tune.base, config, path)
        return names

    def _add(self, name: str, base: str, config: JsonObject, path: Path) -> None:
        values = {"base_model_id": base, "format": "gguf", "config": config}
        with self.database.transaction() as session:
            num_bytes = path.stat().st_size
            session.add(Model(id=name, project_id=DEFAULT_PROJECT_ID, bytes=num_bytes, **values))
            session.flush()
            stored = self._storage.put_file(f"models/{name}/{GGUF}", path)
            row = {"model_id": name, "name": GGUF, "storage_key": f"models/{name}/{GGUF}"}
            session.add(Artifact(**row, **stored._asdict()))

    def _export(self, model: str, format: str) -> Any:
        path = f"/models/{model}/exports"
        self.service.client.post(path, body={"format": format}, cast_to=object)

        def ended() -> Any:
            export: Any = self.service.client.get(f"{path}/{format}", cast_to=object)
            return export if export["status"] != "in_progress" else None

        export = wait_for(ended, EXPORT_SECONDS, f"the export to {format}", POLL_SECONDS)
        if export["status"] != "completed":
            raise SystemExit(f"the export to {format} has failed: {export['error']}")
        return export

    def _fetch(self, model: str, name: str) -> Path:
        path = self._folder / name
        with self.database.read() as session:
            key = session.get_one(Artifact, (model, name)).storage_key
        self._storage.fetch(key, path)
        return path

    def _bytes_of(self, model: str) -> int:
        with self.database.read() as session:
            return session.get_one(Model, model).bytes


def resident_bytes(pids: Sequence[int], field: str = "Pss") -> int:
    """Return the memory of processes; a page that several share counts by its part in each."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return total * 1024
