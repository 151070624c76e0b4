"""Exports by a real worker and the toy trainer, whose other formats are a file that names its weights."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from app.exports import repository
from app.garbage import orphans
from app.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Artifact, Checkpoint, Export, File, Job, Model, OperationStatus
from app.operations import claims
from falqon_core.contract.certificate import CERTIFICATE, Certificate
from tests.support.house import BASE_MODEL, House
from tests.support.toy_trainer import Toy, weights_of
from worker.operations.export import Exporter
from worker.operations.runner import MAX_TRIES

TOY = Toy(steps=20, checkpoint_every=5)


def model_of(house: House, toy: Toy = TOY) -> str:
    """A finished job."""
    job_id = house.add_job(toy)
    house.supervisor().execute_next()
    model_id = house.job(job_id).fine_tuned_model_id
    assert model_id is not None
    return model_id


def ask(house: House, model_id: str, format: str, step: int | None = None) -> str:
    """As the API does."""
    source = model_id if step is None else f"{model_id}:ckpt-step-{step}"
    with house.database.transaction() as session:
        export = Export(
            id=new_id("export-"), project_id=DEFAULT_PROJECT_ID, source=source, job_id=session.get_one(Model, model_id).job_id, step=step,
            format=format, exported_model_id=source if format == "fp8" else f"{source}:{format}",
            status=OperationStatus.IN_PROGRESS, tries=0,
        )  # fmt: skip
        repository.add(session, export)
    return export.id


def exporter(house: House, drain: threading.Event | None = None) -> Exporter:
    return Exporter(house.settings, house.database, house.storage, drain or threading.Event())


def found(house: House, export_id: str) -> Export:
    with house.database.read() as session:
        return session.get_one(Export, export_id)


def content(house: House, export_id: str, name: str) -> str:
    with house.database.read() as session:
        artifact = session.get_one(Artifact, (found(house, export_id).exported_model_id, name))
    return b"".join(house.storage.chunks(artifact.storage_key)).decode()


def test_each_is_made_from_what_it_should_and_becomes_a_model(house: House) -> None:
    model_id = model_of(house)
    wanted = {
        "bf16": (ask(house, model_id, "bf16"), weights_of(20)),
        "lora": (ask(house, model_id, "lora"), weights_of(20)),
    }
    old = ask(house, model_id, "fp8", step=15)
    old_bf16 = ask(house, model_id, "bf16", step=15)
    exporter(house).poll()
    for format, (export_id, weights) in wanted.items():
        assert found(house, export_id).status == OperationStatus.COMPLETED
        assert content(house, export_id, f"{format}.txt") == f"{model_id}:{format} {weights.decode()}"
    before = toy_state(15)
    assert content(house, old, "model.safetensors") == before
    assert content(house, old_bf16, "bf16.txt") == f"{model_id}:ckpt-step-15:bf16 {before}"
    with house.database.read() as session:
        made = session.get_one(Model, f"{model_id}:ckpt-step-15")
        source = session.get_one(Model, model_id)
    assert (made.format, made.project_id, made.base_model_id, made.job_id) == (
        "fp8",
        source.project_id,
        source.base_model_id,
        source.job_id,
    )
    assert sorted(path.name for path in (house.settings.work_dir / "exports").iterdir()) == [".lock"]


@pytest.mark.parametrize("base_is_there", [True, False])
def test_an_adapter_is_made_beside_what_tells_its_base_and_licence(base_is_there: bool, embedded_house: House) -> None:
    house = embedded_house
    model_id = model_of(house)
    if not base_is_there:
        with house.database.transaction() as session:
            session.execute(update(Model).where(Model.id == BASE_MODEL).values(deleted_at=func.now()))
    of_checkpoint, of_model = ask(house, model_id, "lora", step=15), ask(house, model_id, "lora")
    exporter(house).poll()
    assert ("config.json" in content(house, of_checkpoint, "source.txt").split()) is base_is_there
    assert "config.json" in content(house, of_model, "source.txt").split()


@pytest.mark.parametrize("data_is_there", [True, False])
def test_a_checkpoint_is_certified_on_the_data_of_its_training(data_is_there: bool, embedded_house: House) -> None:
    house = embedded_house
    model_id = model_of(house)
    if not data_is_there:
        with house.database.transaction() as session:
            session.execute(update(File).values(deleted_at=func.now()))
    export_id = ask(house, model_id, "fp8", step=15)
    exporter(house).poll()
    with house.database.read() as session:
        names = session.scalars(select(Artifact.name).where(Artifact.model_id == f"{model_id}:ckpt-step-15")).all()
        trained_on = select(File.sha256).join(Job, Job.training_file_id == File.id).where(Job.fine_tuned_model_id == model_id)
        sha256 = session.scalars(trained_on).one()
    assert {"model.safetensors", "SHA256SUMS"} <= set(names)
    assert (CERTIFICATE in names) is data_is_there
    if data_is_there:
        certificate = Certificate.model_validate_json(content(house, export_id, CERTIFICATE))
        assert certificate.data.train == sha256
        assert certificate.service is not None
        assert (certificate.service.model, certificate.service.cost) == (f"{model_id}:ckpt-step-15", None)


def toy_state(step: int) -> str:
    """What a toy of 20 steps holds after `step`."""
    import hashlib

    state = hashlib.sha256(b"20").hexdigest()
    for number in range(1, step + 1):
        state = hashlib.sha256(f"{state}{number}".encode()).hexdigest()
    return state


def test_what_the_program_refuses_is_told_in_its_words(embedded_house: House) -> None:
    export_id = ask(embedded_house, model_of(embedded_house), "gguf")
    exporter(embedded_house).poll()
    export = found(embedded_house, export_id)
    assert (export.status, export.error_code, export.error_message) == (
        OperationStatus.FAILED, "format_not_available", "format: a toy has no GGUF",
    )  # fmt: skip
    with embedded_house.database.read() as session:
        assert session.get(Model, export.exported_model_id) is None


def test_a_checkpoint_that_is_gone_is_said_to_be(embedded_house: House) -> None:
    house = embedded_house
    model_id = model_of(house)
    with house.database.transaction() as session:
        for checkpoint in session.scalars(select(Checkpoint)):
            session.delete(checkpoint)
    exports = [ask(house, model_id, "lora"), ask(house, model_id, "fp8", step=15)]
    exporter(house).poll()
    assert [found(house, one).error_code for one in exports] == ["checkpoint_missing"] * 2


@pytest.mark.parametrize("point", ["during_export_upload", "before_export_row"])
def test_a_worker_that_dies_leaves_nothing_half_done_and_another_does_it(
    point: str, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.settings = house.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    export_id = ask(house, model_of(house), "bf16")
    monkeypatch.setenv("FAULT_POINTS", f"{point}=exit")
    monkeypatch.setenv("FAULT_MARKS", str(tmp_path / "marks"))
    assert house.start_worker("cpu").wait(60) == 137
    assert (tmp_path / "marks" / point).exists()
    export = found(house, export_id)
    assert (export.status, export.tries) == (OperationStatus.IN_PROGRESS, 1)
    with house.database.read() as session:
        assert session.get(Model, export.exported_model_id) is None

    with house.database.transaction() as session:  # what time would do
        session.execute(update(Export).values(claimed_at=None))
    exporter(house).poll()
    assert found(house, export_id).status == OperationStatus.COMPLETED
    assert content(house, export_id, "bf16.txt").startswith(export.exported_model_id)
    prefix = f"projects/{export.project_id}/exports/{export_id}"
    with house.database.read() as session:
        named = orphans.named(session, house.storage.keys(prefix))
    assert named == {f"{prefix}/2/bf16.txt"}


def test_workers_that_die_again_and_again_end_it(embedded_house: House) -> None:
    export_id = ask(embedded_house, model_of(embedded_house), "bf16")
    with embedded_house.database.transaction() as session:
        session.execute(update(Export).values(tries=MAX_TRIES))
    exporter(embedded_house).poll()
    export = found(embedded_house, export_id)
    assert (export.status, export.error_code) == (OperationStatus.FAILED, "export_failed")


def test_a_worker_that_ends_gives_it_back(embedded_house: House) -> None:
    export_id, drain = ask(embedded_house, model_of(embedded_house), "bf16"), threading.Event()
    worker = exporter(embedded_house, drain)
    with embedded_house.database.transaction() as session:
        claimed = claims.claim(session, Export, 60)
    assert claimed is not None
    worker.poll()  # somebody holds it
    assert found(embedded_house, export_id).tries == 1
    with embedded_house.database.transaction() as session:
        claims.release(session, claimed)
    drain.set()
    worker.poll()
    assert (found(embedded_house, export_id).tries, found(embedded_house, export_id).claimed_at) == (0, None)
    drain.clear()
    worker.poll()
    assert found(embedded_house, export_id).status == OperationStatus.COMPLETED


def test_a_ghost_writes_nothing(embedded_house: House) -> None:
    ask(embedded_house, model_of(embedded_house), "bf16")
    with embedded_house.database.transaction() as session:
        ghost = claims.claim(session, Export, 60)
    with embedded_house.database.transaction() as session:
        session.execute(update(Export).values(claimed_at=None))
        winner = claims.claim(session, Export, 60)
    assert ghost is not None
    assert winner is not None
    with embedded_house.database.transaction() as session:
        assert not claims.renew(session, ghost)
        assert claims.renew(session, winner)
        model = Model(id=ghost.exported_model_id, config={}, bytes=1)
        assert not repository.complete(session, ghost, model, [])


def test_one_that_was_deleted_is_made_again(embedded_house: House) -> None:
    house = embedded_house
    export_id = ask(house, model_of(house), "bf16")
    worker = exporter(house)
    worker.poll()
    model_id = found(house, export_id).exported_model_id
    with house.database.transaction() as session:
        session.execute(update(Model).where(Model.id == model_id).values(deleted_at=Model.created_at))
        repository.ask_again(session, export_id)
    worker.poll()
    assert found(house, export_id).status == OperationStatus.COMPLETED
    with house.database.read() as session:
        assert session.get_one(Model, model_id).deleted_at is None
    assert content(house, export_id, "bf16.txt").startswith(model_id)
