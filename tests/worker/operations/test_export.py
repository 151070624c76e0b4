"""Exports by a real worker and the fake trainer, whose other formats are a file that names its
weights.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update

from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.exports import repository
from app.garbage import orphans
from app.models import (
    DEFAULT_PROJECT_ID,
    Artifact,
    Checkpoint,
    Event,
    Export,
    File,
    Job,
    Model,
    OperationStatus,
    Project,
)
from app.models.falqon_options import FalqonOptions
from app.models.job_request import JobRequest
from app.operations import claims
from falqon_core import fault_points
from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.config import Recipe
from falqon_core.export.provenance import HUB_ID
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from worker.operations.export import ExportHandler
from worker.operations.handler import MAX_ATTEMPTS

FAKE = FakeTrainer(steps=20, checkpoint_every=5)


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def model_of(backend: Backend, fake: FakeTrainer = FAKE) -> str:
    """A finished job."""
    job_id = backend.add_job(fake)
    backend.supervisor().execute_next()
    model_id = backend.job(job_id).fine_tuned_model_id
    assert model_id is not None
    return model_id


def job_of(backend: Backend, model_id: str) -> Job:
    with backend.database.read() as session:
        return session.scalars(select(Job).where(Job.fine_tuned_model_id == model_id)).one()


def ask(backend: Backend, model_id: str, format: str, step: int | None = None) -> str:
    """As the API does."""
    source = model_id if step is None else f"{model_id}:ckpt-step-{step}"
    with backend.database.transaction() as session:
        export = Export(
            id=new_id("export-"),
            project_id=DEFAULT_PROJECT_ID,
            source=source,
            job_id=session.get_one(Model, model_id).job_id,
            step=step,
            format=format,
            exported_model_id=source if format == "fp8" else f"{source}:{format}",
            status=OperationStatus.IN_PROGRESS,
            attempt=0,
        )
        repository.add(session, export)
    return export.id


def handler_of(backend: Backend, shutting_down: threading.Event | None = None) -> ExportHandler:
    return ExportHandler(backend.context(shutting_down))


def read_export(backend: Backend, export_id: str) -> Export:
    with backend.database.read() as session:
        return session.get_one(Export, export_id)


def content(backend: Backend, export_id: str, name: str) -> str:
    with backend.database.read() as session:
        artifact = session.get_one(
            Artifact, (read_export(backend, export_id).exported_model_id, name)
        )
    return b"".join(backend.storage.chunks(artifact.storage_key)).decode()


def test_every_export_is_made_from_its_source_and_becomes_a_model(backend: Backend) -> None:
    model_id = model_of(backend)
    expected = {
        "bf16": (ask(backend, model_id, "bf16"), weights_of(20)),
        "lora": (ask(backend, model_id, "lora"), weights_of(20)),
        "q4_1": (ask(backend, model_id, "q4_1"), weights_of(20)),
    }
    old = ask(backend, model_id, "fp8", step=15)
    old_bf16 = ask(backend, model_id, "bf16", step=15)
    handler_of(backend).poll()
    for format, (export_id, weights) in expected.items():
        assert read_export(backend, export_id).status == OperationStatus.COMPLETED
        assert (
            content(backend, export_id, f"{format}.txt")
            == f"{model_id}:{format} {weights.decode()}"
        )
    before = fake_state(15)
    assert content(backend, old, "model.safetensors") == before
    assert content(backend, old_bf16, "bf16.txt") == f"{model_id}:ckpt-step-15:bf16 {before}"
    with backend.database.read() as session:
        model = session.get_one(Model, f"{model_id}:ckpt-step-15")
        source = session.get_one(Model, model_id)
    assert (model.format, model.project_id, model.base_model_id, model.job_id) == (
        "fp8",
        source.project_id,
        source.base_model_id,
        source.job_id,
    )
    assert sorted(path.name for path in (backend.settings.work_dir / "exports").iterdir()) == [
        ".lock"
    ]


@pytest.mark.parametrize("data_is_there", [True, False])
def test_a_smaller_form_is_measured_on_the_data_of_its_training(
    data_is_there: bool, embedded_backend: Backend
) -> None:
    backend = embedded_backend
    model_id = model_of(backend)
    with backend.database.transaction() as session:
        if not data_is_there:
            session.execute(update(File).values(deleted_at=func.now()))
    small = ask(backend, model_id, "gguf_q4_k_m")
    adapter = ask(backend, model_id, "gguf_lora")
    exact = ask(backend, model_id, "bf16")
    handler_of(backend).poll()
    assert read_export(backend, adapter).rounding == read_export(backend, small).rounding
    rounding = read_export(backend, small).rounding
    assert (rounding is not None) is data_is_there
    if rounding is not None:
        assert (rounding.loss, rounding.loss_fp8, rounding.held_out.num_rows) == (1.25, 1.0, 1)
    assert read_export(backend, exact).rounding is None, "nothing is rounded"


@pytest.mark.parametrize("says_so", ["job", "project", "neither"])
def test_a_job_that_is_to_be_shared_has_its_adapter_made_and_measured(
    says_so: str, embedded_backend: Backend
) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FAKE)
    with backend.database.transaction() as session:
        config = session.get_one(Artifact, (BASE_MODEL, "config.json"))
        values = json.loads(b"".join(backend.storage.chunks(config.storage_key)))
        config.storage_key += ".llama"
        content = json.dumps(values | {"model_type": "llama"}).encode()
        stored = backend.storage.put(config.storage_key, [content])
        config.bytes, config.sha256 = stored.bytes, stored.sha256
        if says_so == "project":
            session.get_one(Project, DEFAULT_PROJECT_ID).serve_as = "shared"
        if says_so == "job":
            job = session.get_one(Job, job_id)
            job.requested = job.requested.model_copy(
                update={"falqon": FalqonOptions(serve_as="shared")}
            )
    backend.supervisor().execute_next()
    model_id = str(backend.job(job_id).fine_tuned_model_id)

    def served_id() -> str:
        with backend.database.read() as session:
            return catalogue.served_id(session, session.get_one(Model, model_id))

    assert served_id() == model_id, "as long as nothing is measured"
    handler_of(backend).poll()
    assert served_id() == (model_id if says_so == "neither" else f"{model_id}:gguf_lora")


def test_a_default_that_a_job_cannot_follow_is_told(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job(FAKE)
    with backend.database.transaction() as session:
        session.get_one(Project, DEFAULT_PROJECT_ID).serve_as = "shared"
        session.get_one(Job, job_id).recipe = Recipe(update_rule="topk").resolved(1)
    backend.supervisor().execute_next()
    with backend.database.read() as session:
        model = session.get_one(Model, backend.job(job_id).fine_tuned_model_id)
        assert model.serve_as == "merged"
        events = session.scalars(select(Event).where(Event.job_id == job_id)).all()
    assert any("answers merged, not shared" in event.message for event in events)


@pytest.mark.parametrize("base_is_there", [True, False])
def test_an_adapter_is_made_beside_what_tells_its_base_and_licence(
    base_is_there: bool, embedded_backend: Backend
) -> None:
    backend = embedded_backend
    model_id = model_of(backend)
    if not base_is_there:
        with backend.database.transaction() as session:
            session.execute(
                update(Model).where(Model.id == BASE_MODEL).values(deleted_at=func.now())
            )
    of_checkpoint = ask(backend, model_id, "lora", step=15)
    of_model = ask(backend, model_id, "lora")
    handler_of(backend).poll()
    assert ("config.json" in content(backend, of_checkpoint, "source.txt").split()) is base_is_there
    assert "config.json" in content(backend, of_model, "source.txt").split()


@pytest.mark.parametrize("began_from", ["model", "checkpoint", "deleted checkpoint"])
def test_an_adapter_names_what_its_training_began_from_and_no_alias_of_it(
    began_from: str, embedded_backend: Backend, tmp_path: Path
) -> None:
    backend = embedded_backend
    first = model_of(backend)
    checkpoint = backend.checkpoints(job_of(backend, first).id)[0]
    by_alias = JobRequest(model="support", training_file="file-1")
    job_id = backend.add_job(FakeTrainer(steps=5))
    if began_from == "model":
        backend.set(job_id, requested=by_alias, base_model_id=first)
    else:
        backend.set(job_id, requested=by_alias, base_checkpoint_id=checkpoint.id)
    backend.supervisor().execute_next()
    if began_from == "deleted checkpoint":
        with backend.database.transaction() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.id == checkpoint.id))
    export_id = ask(backend, str(backend.job(job_id).fine_tuned_model_id), "lora")

    calls = tmp_path / "calls"
    noted = ["sh", "-c", f'echo "$@" >> {calls}; exec "$@"', "sh"]
    command = [*noted, *backend.settings.trainer_command]
    ExportHandler(backend.context(trainer_command=command)).poll()
    assert read_export(backend, export_id).status == OperationStatus.COMPLETED
    arguments = calls.read_text().split()
    base_model = arguments[arguments.index("--base-model") + 1]
    assert base_model == {
        "model": first,
        "checkpoint": f"{first}:ckpt-step-{checkpoint.step}",
        "deleted checkpoint": f"checkpoint:{checkpoint.id}",
    }.get(began_from)
    assert not HUB_ID.fullmatch(base_model), "which would be taken for the base of its base"


@pytest.mark.parametrize("data_is_there", [True, False])
def test_a_checkpoint_is_certified_on_the_data_of_its_training(
    data_is_there: bool, embedded_backend: Backend
) -> None:
    backend = embedded_backend
    model_id = model_of(backend)
    if not data_is_there:
        with backend.database.transaction() as session:
            session.execute(update(File).values(deleted_at=func.now()))
    export_id = ask(backend, model_id, "fp8", step=15)
    handler_of(backend).poll()
    with backend.database.read() as session:
        names = session.scalars(
            select(Artifact.name).where(Artifact.model_id == f"{model_id}:ckpt-step-15")
        ).all()
        trained_on = (
            select(File.sha256)
            .join(Job, Job.training_file_id == File.id)
            .where(Job.fine_tuned_model_id == model_id)
        )
        sha256 = session.scalars(trained_on).one()
    assert {"model.safetensors", "SHA256SUMS"} <= set(names)
    assert (CERTIFICATE in names) is data_is_there
    if data_is_there:
        certificate = Certificate.model_validate_json(content(backend, export_id, CERTIFICATE))
        assert certificate.data.train == sha256
        assert certificate.service is not None
        assert (certificate.service.model, certificate.service.cost) == (
            f"{model_id}:ckpt-step-15",
            None,
        )


def fake_state(step: int) -> str:
    """What a fake of 20 steps holds after `step`."""
    import hashlib

    state = hashlib.sha256(b"20").hexdigest()
    for number in range(1, step + 1):
        state = hashlib.sha256(f"{state}{number}".encode()).hexdigest()
    return state


def test_a_refusal_of_the_export_program_is_reported_in_its_words(
    embedded_backend: Backend,
) -> None:
    export_id = ask(embedded_backend, model_of(embedded_backend), "gguf")
    handler_of(embedded_backend).poll()
    export = read_export(embedded_backend, export_id)
    assert (export.status, export.error_code, export.error_message) == (
        OperationStatus.FAILED,
        "format_not_available",
        "format: a fake has no GGUF",
    )
    with embedded_backend.database.read() as session:
        assert session.get(Model, export.exported_model_id) is None


def test_a_checkpoint_that_is_gone_is_said_to_be(embedded_backend: Backend) -> None:
    backend = embedded_backend
    model_id = model_of(backend)
    with backend.database.transaction() as session:
        for checkpoint in session.scalars(select(Checkpoint)):
            session.delete(checkpoint)
    exports = [ask(backend, model_id, "lora"), ask(backend, model_id, "fp8", step=15)]
    handler_of(backend).poll()
    assert [read_export(backend, export_id).error_code for export_id in exports] == [
        "checkpoint_missing"
    ] * 2


@pytest.mark.parametrize("point", ["during_export_upload", "before_export_row"])
def test_a_worker_that_dies_leaves_nothing_half_done_and_another_does_it(
    point: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.settings = backend.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    export_id = ask(backend, model_of(backend), "bf16")
    monkeypatch.setenv("FAULT_POINTS", f"{point}=exit")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path / "marks"))
    assert backend.start_worker("cpu").wait(60) == 137
    assert (tmp_path / "marks" / point).exists()
    export = read_export(backend, export_id)
    assert (export.status, export.attempt) == (OperationStatus.IN_PROGRESS, 1)
    with backend.database.read() as session:
        assert session.get(Model, export.exported_model_id) is None

    with backend.database.transaction() as session:  # what time would do
        session.execute(update(Export).values(lease_expires_at=None))
    handler_of(backend).poll()
    assert read_export(backend, export_id).status == OperationStatus.COMPLETED
    assert content(backend, export_id, "bf16.txt").startswith(export.exported_model_id)
    prefix = f"projects/{export.project_id}/exports/{export_id}"
    with backend.database.read() as session:
        referenced = orphans.find_referenced(session, backend.storage.keys(prefix))
    assert referenced == {f"{prefix}/2/bf16.txt"}


def test_an_export_fails_after_several_dead_workers(embedded_backend: Backend) -> None:
    export_id = ask(embedded_backend, model_of(embedded_backend), "bf16")
    with embedded_backend.database.transaction() as session:
        session.execute(update(Export).values(attempt=MAX_ATTEMPTS))
    handler_of(embedded_backend).poll()
    export = read_export(embedded_backend, export_id)
    assert (export.status, export.error_code) == (OperationStatus.FAILED, "export_failed")


def test_an_export_fails_after_several_full_disks_with_the_reason(
    embedded_backend: Backend, tmp_path: Path, disarmed: None
) -> None:
    export_id = ask(embedded_backend, model_of(embedded_backend), "bf16")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert read_export(embedded_backend, export_id).status == OperationStatus.IN_PROGRESS
        fault_points.arm("during_export_upload=enospc", str(tmp_path / f"marks-{attempt}"))
        handler_of(embedded_backend).poll()
        with embedded_backend.database.transaction() as session:  # what time would do
            session.execute(update(Export).values(lease_expires_at=None))
    export = read_export(embedded_backend, export_id)
    assert (export.status, export.error_code) == (OperationStatus.FAILED, "disk_full")
    assert export.error_message is not None
    assert "no room" in export.error_message


def test_a_zombie_writes_nothing(embedded_backend: Backend) -> None:
    ask(embedded_backend, model_of(embedded_backend), "bf16")
    with embedded_backend.database.transaction() as session:
        zombie = claims.claim(session, Export, 60)
    with embedded_backend.database.transaction() as session:
        session.execute(update(Export).values(lease_expires_at=None))
        winner = claims.claim(session, Export, 60)
    assert zombie is not None
    assert winner is not None
    with embedded_backend.database.transaction() as session:
        assert not claims.renew(session, zombie, 60)
        assert claims.renew(session, winner, 60)
        model = Model(id=zombie.exported_model_id, config={}, bytes=1)
        assert not repository.complete(session, zombie, model, [])


def test_a_deleted_export_is_made_again(embedded_backend: Backend) -> None:
    backend = embedded_backend
    before = ask(backend, model_of(backend), "bf16")
    with backend.database.transaction() as session:
        zombie = claims.claim(session, Export, 60)
    with backend.database.transaction() as session:
        session.execute(update(Export).values(lease_expires_at=None, attempt=0))
    worker = handler_of(backend)
    worker.poll()
    with backend.database.transaction() as session:
        stored = set(session.scalars(select(Artifact.storage_key)))
        model = session.get_one(Model, read_export(backend, before).exported_model_id)
        model.deleted_at = model.created_at
        again = new_id("export-")
        claims.restart(session, session.get_one(Export, before), again)
        winner = claims.claim(session, Export, 60)
        assert (winner and winner.id, zombie and zombie.attempt) == (again, 1)
        assert not claims.renew(session, zombie, 60), "it has the number of the new attempt"
        assert claims.release(session, winner)
    worker.poll()
    assert read_export(backend, again).status == OperationStatus.COMPLETED
    with backend.database.read() as session:
        assert session.get_one(Model, model.id).deleted_at is None
        artifacts = session.scalars(select(Artifact).where(Artifact.model_id == model.id)).all()
    assert stored.isdisjoint(artifact.storage_key for artifact in artifacts)
    assert content(backend, again, "bf16.txt").startswith(model.id)
