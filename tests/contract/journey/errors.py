import openai

from tests.contract.journey.files import QUICK, uploaded
from tests.contract.journey.traveller import Traveller, done, every, refused, same


async def journey(traveller: Traveller) -> None:
    """The classes of errors that no other part of the way has met."""
    stranger = traveller.client.with_options(api_key="nobody")
    await refused(openai.AuthenticationError, "invalid_api_key", stranger.models.list)
    reader = traveller.client.with_options(api_key=traveller.reading_key)
    assert await every(reader.models.list())
    for call, wanted in (
        (reader.files.create, {"file": b"{}", "purpose": "fine-tune"}),
        (reader.fine_tuning.jobs.create, {"model": traveller.model, "training_file": "file-x"}),
        (reader.uploads.create, {"bytes": 1, "filename": "a", "mime_type": "text/jsonl", "purpose": "fine-tune"}),
    ):
        await refused(openai.PermissionDeniedError, "insufficient_permissions", call, **wanted)

    jobs = traveller.client.fine_tuning.jobs
    wanted = {"model": traveller.model, "training_file": await uploaded(traveller, QUICK)}
    key = {"Idempotency-Key": "once"}
    job = await done(jobs.create(**wanted, extra_headers=key))
    same((await done(jobs.create(**wanted, extra_headers=key))).id, job.id)
    mismatch = {"seed": 3, "extra_headers": key, "param": "Idempotency-Key"}
    await refused(openai.UnprocessableEntityError, "idempotency_mismatch", jobs.create, **wanted, **mismatch)
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
        await refused(openai.BadRequestError, code, jobs.create, **wanted | change, param=param)
