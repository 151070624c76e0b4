import openai

from tests.contract.journey.files import QUICK, records, uploaded
from tests.contract.journey.traveller import Traveller, done, every, refused, same


async def journey(traveller: Traveller) -> None:
    """The classes of errors that no other part of the way has met."""
    stranger = traveller.client.with_options(api_key="nobody")
    await refused(openai.AuthenticationError, "invalid_api_key", stranger.models.list)
    reader = traveller.client.with_options(api_key=traveller.reading_key)
    assert await every(reader.models.list())
    for call, arguments in (
        (reader.files.create, {"file": b"{}", "purpose": "fine-tune"}),
        (reader.fine_tuning.jobs.create, {"model": traveller.model, "training_file": "file-x"}),
        (
            reader.uploads.create,
            {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"},
        ),
    ):
        await refused(openai.PermissionDeniedError, "insufficient_permissions", call, **arguments)

    jobs = traveller.client.fine_tuning.jobs
    arguments = {"model": traveller.model, "training_file": await uploaded(traveller, QUICK)}
    key = {"Idempotency-Key": "once"}
    job = await done(jobs.create(**arguments, extra_headers=key))
    same((await done(jobs.create(**arguments, extra_headers=key))).id, job.id)
    mismatch = {"seed": 3, "extra_headers": key, "param": "Idempotency-Key"}
    await refused(
        openai.UnprocessableEntityError,
        "idempotency_mismatch",
        jobs.create,
        **arguments,
        **mismatch,
    )
    await done(jobs.cancel(job.id))

    for change, code, param in (
        ({"model": "nobody/knows"}, "model_not_found", "model"),
        ({"training_file": "file-unknown"}, "invalid_training_file", "training_file"),
        ({"suffix": "x" * 65}, "invalid_value", "suffix"),
        ({"method": {"type": "reinforcement"}}, "invalid_value", "method"),
        ({"hyperparameters": {"n_epochs": 0}}, "invalid_value", "hyperparameters.n_epochs"),
        ({"extra_body": {"falqon": {"rnk": 8}}}, "unknown_parameter", "falqon.rnk"),
        ({"integrations": [{"type": "unheard-of"}]}, "invalid_value", "integrations.0.type"),
    ):
        await refused(openai.BadRequestError, code, jobs.create, **arguments | change, param=param)

    await _projects(traveller, job.organization_id)
    await _limits(traveller)


async def _projects(traveller: Traveller, own: str) -> None:
    """The client says which project it means, from OPENAI_PROJECT_ID too."""
    assert await every(
        traveller.client.with_options(project=own, organization="org-any").models.list()
    )
    elsewhere = traveller.client.with_options(project=traveller.other_projects[0])
    await refused(
        openai.AuthenticationError,
        "mismatched_project",
        elsewhere.models.list,
        param="OpenAI-Project",
    )


async def _limits(traveller: Traveller) -> None:
    patient = traveller.client.with_options(api_key=traveller.limited_key)
    file = await done(patient.files.create(file=records(QUICK), purpose="fine-tune"))
    await done(patient.files.wait_for_processing(file.id, poll_interval=0.5))
    arguments = {"model": traveller.model, "training_file": file.id}
    await refused(
        openai.RateLimitError,
        "insufficient_quota",
        patient.fine_tuning.jobs.create,
        **arguments,
        param="max_live_jobs",
    )

    hasty = patient.with_options(max_retries=0)
    error = None
    for _ in range(200):
        try:
            await done(hasty.models.list())
        except openai.RateLimitError as caught:
            error = caught
            break
    assert error is not None, "200 requests and no limit"
    same((error.code, error.type), ("rate_limit_exceeded", "rate_limit_error"))
    assert 0 < int(error.response.headers["retry-after-ms"]) <= 1000, error.response.headers
    assert await every(patient.models.list()), "the client waits as it is told, and is let in"
