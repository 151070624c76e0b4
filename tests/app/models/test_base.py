from app.models.job_request import JobRequest
from tests.support.backend import Backend


def test_a_request_is_stored_as_the_user_sent_it(backend: Backend) -> None:
    request = JobRequest.model_validate(
        {"model": "m", "training_file": "f", "seed": None, "falqon": {"rank": 8}}
    )
    job_id = backend.add_job()
    backend.set(job_id, requested=request)
    stored = backend.job(job_id).requested
    assert stored == request
    assert stored.model_fields_set == request.model_fields_set
    assert stored.falqon.model_fields_set == {"rank"}


def test_progress_of_a_newer_version_is_read_without_what_is_unknown(backend: Backend) -> None:
    job_id = backend.add_job()
    assert backend.job(job_id).progress is None
    with backend.database.transaction() as session:
        newer = """UPDATE jobs SET progress = '{"step": 3, "phase": "merge"}'"""
        session.connection().exec_driver_sql(newer)
    progress = backend.job(job_id).progress
    assert progress is not None
    assert (progress.step, progress.model_fields_set) == (3, {"step"})
