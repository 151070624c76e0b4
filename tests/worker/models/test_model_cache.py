"""A job that continues from another one's model or checkpoint, on the fake trainer."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete

from app.attempts.inputs import read as read_inputs
from app.attempts.wire import InputsJson
from app.models import Artifact, Checkpoint, JobStatus
from app.models.job_request import JobRequest
from falqon_core.contract.config import TrainConfig
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer
from worker.evaluation.card import CARD_NAME
from worker.models.model_cache import ModelCache, RowsOfInputs


def staged_weights(backend: Backend) -> set[bytes]:
    """Of every base model that is on this machine."""
    return {
        path.read_bytes()
        for path in (backend.settings.work_dir / "models").glob("*/model.safetensors")
    }


@pytest.fixture
def trained(embedded_backend: Backend) -> str:
    job_id = embedded_backend.add_job(FakeTrainer(steps=10))
    assert embedded_backend.supervisor().execute_next()
    return job_id


def continue_from(backend: Backend, checkpoint: Checkpoint) -> str:
    job_id = backend.add_job(FakeTrainer(steps=5))
    backend.set(job_id, base_checkpoint_id=checkpoint.id)
    backend.supervisor().execute_next()
    return job_id


def test_a_fine_tuned_model_is_a_base(embedded_backend: Backend, trained: str) -> None:
    backend = embedded_backend
    weights = backend.weights(trained)
    assert weights not in staged_weights(backend)
    job_id = backend.add_job()
    backend.set(job_id, base_model_id=backend.job(trained).fine_tuned_model_id)
    backend.supervisor().execute_next()
    job = backend.job(job_id)
    assert job.status == JobStatus.SUCCEEDED
    assert weights in staged_weights(backend)
    assert job.fine_tuned_model_id == f"ft:{BASE_MODEL}:default::{job_id[-8:]}", (
        "named by the base at the beginning"
    )


def test_a_model_is_made_plain_once(embedded_backend: Backend, trained: str) -> None:
    model_id = str(embedded_backend.job(trained).fine_tuned_model_id)
    with ModelCache.of(embedded_backend.context(), lambda: None) as cache:
        folder = cache.bf16(model_id)
        weights = embedded_backend.weights(trained).decode()
        assert (folder / "bf16.txt").read_text() == f"{model_id} {weights}"
        made_at = folder.stat().st_mtime_ns
        assert cache.bf16(model_id).stat().st_mtime_ns == made_at


def test_a_model_that_is_evaluated_stays_in_its_folder(
    embedded_backend: Backend, trained: str
) -> None:
    backend = embedded_backend
    model_id = str(backend.job(trained).fine_tuned_model_id)
    with ModelCache.of(backend.context(), lambda: None) as cache:
        folder = cache.model(model_id)
        for key in ("first.md", "second.md"):
            stored = backend.storage.put(key, [key.encode()])
            card = Artifact(model_id=model_id, name=CARD_NAME, storage_key=key, **stored._asdict())
            with backend.database.transaction() as session:
                session.merge(card)
            assert cache.model(model_id) == folder
        assert not (folder / CARD_NAME).exists()


def test_a_model_that_many_need_at_once_is_converted_once(
    embedded_backend: Backend, trained: str, tmp_path: Path
) -> None:
    model_id = str(embedded_backend.job(trained).fine_tuned_model_id)
    calls = tmp_path / "calls"
    counting = ["sh", "-c", f'echo "$@" >> {calls}; exec "$@"', "sh"]
    command = [*counting, *embedded_backend.settings.trainer_command]
    context = embedded_backend.context(trainer_command=command)

    def convert(_: int) -> str:
        with ModelCache.of(context, lambda: None) as cache:
            return (cache.bf16(model_id) / "bf16.txt").read_text()

    with ThreadPoolExecutor(4) as pool:
        weights = embedded_backend.weights(trained).decode()
        assert set(pool.map(convert, range(4))) == {f"{model_id} {weights}"}
    assert len(calls.read_text().splitlines()) == 1


def test_a_checkpoint_is_merged_into_a_base_once(embedded_backend: Backend, trained: str) -> None:
    backend = embedded_backend
    middle = backend.checkpoints(trained)[0]
    assert middle.step == 5
    state = b"".join(backend.storage.chunks(f"{middle.storage_prefix}/state.bin"))
    assert backend.job(continue_from(backend, middle)).status == JobStatus.SUCCEEDED
    assert state in staged_weights(backend)
    folders = list((backend.settings.work_dir / "models").iterdir())
    whole = ["SHA256SUMS", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in _with(folders, state).iterdir()) == whole
    second = continue_from(backend, middle)
    assert backend.job(second).status == JobStatus.SUCCEEDED
    assert sorted((backend.settings.work_dir / "models").iterdir()) == sorted(folders)


def test_a_checkpoint_is_named_to_the_trainer_where_the_request_has_an_alias(
    embedded_backend: Backend, trained: str, tmp_path: Path
) -> None:
    backend = embedded_backend
    first = backend.checkpoints(trained)[0]
    name = f"{backend.job(trained).fine_tuned_model_id}:ckpt-step-{first.step}"
    job_id = backend.add_job(FakeTrainer(steps=5))
    by_alias = JobRequest(model="support", training_file="file-1")
    backend.set(job_id, base_checkpoint_id=first.id, requested=by_alias)
    calls, config = tmp_path / "calls", tmp_path / "config.json"
    script = f"""echo "$@" >> {calls}
for word; do case "$word" in */config.json) cp "$word" {config};; esac; done
exec "$@"
"""
    command = ["sh", "-c", script, "sh", *backend.settings.trainer_command]
    backend.supervisor(trainer_command=command).execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert f"--base-model {BASE_MODEL} " in calls.read_text()
    assert TrainConfig.model_validate_json(config.read_bytes()).base_model_name == name

    job = backend.job(job_id)
    with backend.database.read() as session:
        sent = InputsJson.of(read_inputs(session, job)).model_dump_json()
    received = RowsOfInputs(InputsJson.model_validate_json(sent).value())
    assert (received.began_from(job), received.began_from(backend.job(trained))) == (
        name,
        BASE_MODEL,
    )


def test_a_checkpoint_of_a_job_that_continued_from_one(
    embedded_backend: Backend, trained: str
) -> None:
    backend = embedded_backend
    second = continue_from(backend, backend.checkpoints(trained)[0])
    third = continue_from(backend, backend.checkpoints(second)[0])
    assert backend.job(third).status == JobStatus.SUCCEEDED
    assert len(staged_weights(backend)) == 3


def test_a_checkpoint_that_is_gone_fails_the_job_at_once(
    embedded_backend: Backend, trained: str
) -> None:
    backend = embedded_backend
    gone = backend.checkpoints(trained)[0]
    with backend.database.transaction() as session:
        session.execute(delete(Checkpoint).where(Checkpoint.id == gone.id))
    job = backend.job(continue_from(backend, gone))
    assert (job.status, job.error_code, job.error_param, job.infra_failures) == (
        JobStatus.FAILED,
        "base_model_missing",
        "model",
        0,
    )
    assert "has been deleted" in (job.error_message or "")


def test_a_checkpoint_that_cannot_be_exported_leaves_no_base_behind(
    embedded_backend: Backend, trained: str
) -> None:
    backend = embedded_backend
    broken = backend.checkpoints(trained)[0]
    backend.damage(f"{broken.storage_prefix}/state.bin")
    before = staged_weights(backend)
    job_id = backend.add_job()
    backend.set(job_id, base_checkpoint_id=broken.id)
    backend.supervisor(max_infra_failures=0).execute_next()
    assert backend.job(job_id).error_code == "internal_error"
    assert staged_weights(backend) == before
    assert list((backend.settings.work_dir / "staging").glob("id-*")) == []


def _with(folders: list[Path], weights: bytes) -> Path:
    return next(
        folder for folder in folders if (folder / "model.safetensors").read_bytes() == weights
    )
