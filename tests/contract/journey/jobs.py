from typing import Any

import openai

from tests.contract.journey.files import FAILING, QUICK, SLOW, uploaded
from tests.contract.journey.traveller import Traveller, done, every, ids, refused, same, until

NUMBERS = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
METHOD = {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}}


async def journey(traveller: Traveller) -> Any:
    """Gives the job that has succeeded."""
    jobs = traveller.client.fine_tuning.jobs
    training = await uploaded(traveller, QUICK)
    arguments = {
        "model": traveller.model,
        "training_file": training,
        "suffix": "quick",
        "seed": 7,
        "method": METHOD,
        "metadata": {"team": "support", "step": "1"},
        "extra_body": {"falqon": {"rank": 8, "checkpoint_every": 2}},
    }
    dry = await done(jobs.create(**arguments, extra_query={"dry_run": "true"}))
    assert dry.dry_run, dry
    assert dry.estimate["steps"] > 0, dry
    same(await every(jobs.list()), [])

    job = await done(jobs.create(**arguments))
    same(
        (job.object, job.model, job.training_file, job.seed),
        ("fine_tuning.job", traveller.model, training, 7),
    )
    same(job.metadata, {"team": "support", "step": "1"})
    same(job.hyperparameters.n_epochs, 2)
    same((job.method.type, job.method.supervised.hyperparameters.batch_size), ("supervised", 4))
    same((job.config["rank"], job.estimate["steps"]), (8, dry.estimate["steps"]))
    assert (job._request_id or "").startswith("req_"), job._request_id
    raw = await done(jobs.with_raw_response.retrieve(job.id))
    assert raw.headers["x-request-id"] not in ("", job._request_id), raw.headers
    same((await done(raw.parse())).id, job.id)
    finished = await until(lambda: jobs.retrieve(job.id), "succeeded", "failed")
    same((finished.status, finished.error), ("succeeded", None))
    assert finished.finished_at >= finished.created_at, finished
    assert finished.trained_tokens > 0, finished
    same(finished.progress["percent"], 100)
    assert float(finished.cost["accrued"]) >= 0, finished.cost

    await _events(traveller, job.id)
    await _checkpoints(traveller, finished)
    await _results(traveller, finished)
    await _endings(traveller, job.id)
    await _another_way(traveller, training)
    await _a_failure(traveller)
    return finished


async def _events(traveller: Traveller, job_id: str) -> None:
    jobs = traveller.client.fine_tuning.jobs
    events = await every(jobs.list_events(job_id, limit=3))
    same(len(events), len(set(ids(events))))
    same(ids(events), ids(await every(jobs.list_events(job_id, limit=100))))
    same(events[-1].message, f"Created fine-tuning job: {job_id}")
    same({event.object for event in events}, {"fine_tuning.job.event"})
    same(
        [
            event.data["step"]
            for event in events
            if event.type == "metrics" and "train_loss" in event.data
        ],
        list(range(10, 0, -1)),
    )
    rest = await every(jobs.list_events(job_id, after=events[1].id, limit=4))
    same(ids(rest), ids(events[2:]))
    kind = openai.AsyncStream[object] if traveller.asynchronous else openai.Stream[object]
    live = await every(
        traveller.client.get(
            f"/fine_tuning/jobs/{job_id}/stream", cast_to=object, stream=True, stream_cls=kind
        )
    )
    same([event["id"] for event in live], ids(events)[::-1])


async def _checkpoints(traveller: Traveller, job: Any) -> None:
    checkpoints = await every(traveller.client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    steps = [checkpoint.step_number for checkpoint in checkpoints]
    same(steps, sorted(steps, reverse=True))
    assert len(steps) > 2, steps
    for checkpoint in checkpoints:
        same(
            (checkpoint.object, checkpoint.fine_tuning_job_id),
            ("fine_tuning.job.checkpoint", job.id),
        )
        same(
            checkpoint.fine_tuned_model_checkpoint,
            f"{job.fine_tuned_model}:ckpt-step-{checkpoint.step_number}",
        )
        same(
            (checkpoint.metrics.step, checkpoint.metrics.train_loss),
            (checkpoint.step_number, 1 / checkpoint.step_number),
        )


async def _results(traveller: Traveller, job: Any) -> None:
    files = traveller.client.files
    (file_id,) = job.result_files
    same((await done(files.retrieve(file_id))).purpose, "fine-tune-results")
    table = (await done(files.content(file_id))).text.splitlines()
    same(table[0], "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy")
    same([row.split(",")[0] for row in table[1:]], [str(step) for step in range(1, 11)])


async def _endings(traveller: Traveller, job_id: str) -> None:
    jobs = traveller.client.fine_tuning.jobs
    for call, code in (
        (jobs.cancel, "job_already_ended"),
        (jobs.pause, "job_not_pausable"),
        (jobs.resume, "job_not_paused"),
    ):
        await refused(openai.BadRequestError, code, call, job_id)
    for call in (
        jobs.retrieve,
        jobs.cancel,
        jobs.pause,
        jobs.resume,
        jobs.list_events,
        jobs.checkpoints.list,
    ):
        await refused(
            openai.NotFoundError, "fine_tune_not_found", call, "ftjob-unknown", param="fine_tune_id"
        )


async def _another_way(traveller: Traveller, quick_file: str) -> None:
    """Paused, resumed, cancelled; asked for with the old form of hyperparameters."""
    jobs = traveller.client.fine_tuning.jobs
    slow_file = await uploaded(traveller, SLOW)
    slow = {
        "model": traveller.model,
        "training_file": slow_file,
        "hyperparameters": {"n_epochs": 3},
        "validation_file": quick_file,
    }
    job = await done(jobs.create(**slow, metadata={"team": "sales"}))
    same((job.hyperparameters.n_epochs, job.validation_file), (3, quick_file))
    await until(lambda: jobs.retrieve(job.id), "running")
    same((await done(jobs.pause(job.id))).id, job.id)
    paused = await until(lambda: jobs.retrieve(job.id), "paused")
    same((paused.paused_reason, paused.finished_at), ("requested", None))
    same((await done(jobs.resume(job.id))).status, "queued")
    await until(lambda: jobs.retrieve(job.id), "running")
    await done(jobs.cancel(job.id))
    cancelled = await until(lambda: jobs.retrieve(job.id), "cancelled")
    same((cancelled.error, cancelled.fine_tuned_model), (None, None))
    same(len(cancelled.attempts), 2)

    same(
        [listed.metadata["team"] for listed in await every(jobs.list(limit=1))],
        ["sales", "support"],
    )
    same(ids(await every(jobs.list(metadata={"team": "sales"}))), [job.id])
    same(ids(await every(jobs.list(metadata={"team": "sales", "step": "1"}))), [])
    same(ids(await every(jobs.list(extra_query={"metadata": "null"}))), [])
    await refused(
        openai.BadRequestError, "invalid_cursor", jobs.list, after="ftjob-unknown", param="after"
    )


async def _a_failure(traveller: Traveller) -> None:
    jobs = traveller.client.fine_tuning.jobs
    job = await done(
        jobs.create(model=traveller.model, training_file=await uploaded(traveller, FAILING))
    )
    failed = await until(lambda: jobs.retrieve(job.id), "failed", "succeeded")
    same((failed.error.code, failed.error.param), ("loss_not_finite", "learning_rate"))
    assert failed.error.message, failed
    newest, *_ = await every(jobs.list_events(job.id))
    same(newest.level, "error")
