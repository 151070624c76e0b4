"""When a used-up budget ends an attempt, and when it lets the export finish."""

import os
import threading
from decimal import Decimal

import pytest

from app.models.falqon_options import Budget
from app.models.job_progress import JobProgress
from falqon_core.contract.messages import Started, StoppedEarly, TrainerMessage, encode
from tests.support.backend import Backend
from tests.worker.attempt.relays import (
    add_running_job,
    gateway_of,
    progress_of,
    relay_of,
    writer_of,
)
from tests.worker.attempt.test_progress import step
from worker.attempt.progress import AttemptProgress
from worker.attempt.spool import Spool
from worker.attempt.stop_policy import StopPolicy

HOUR = 3600.0
CAP = "max_seconds 60"


def read_messages(
    backend: Backend, *messages: TrainerMessage, before: JobProgress | None = None
) -> tuple[AttemptProgress, str | None]:
    """Return the progress of an attempt after these messages, and the cap that it has reached."""
    job_id = add_running_job(backend)
    budget = Budget(max_seconds=60, max_cost_usd=Decimal("100.00"))
    backend.set(job_id, budget=budget, progress=before)
    gateway = gateway_of(backend)
    progress = progress_of(backend, job_id, lambda: HOUR)
    policy = StopPolicy(
        threading.Event(), backend.job(job_id), writer_of(gateway, job_id).lease, progress
    )
    spool = Spool(backend.settings.data_dir / "events.spool")
    relay = relay_of(backend, job_id, gateway, spool, progress=progress)
    read_end, write_end = os.pipe()
    relay.read(os.fdopen(read_end, "rb"))
    os.write(write_end, b"".join(map(encode, messages)))
    os.close(write_end)
    relay.join(60)
    spool.close()
    return progress, policy.reached_cap()


def started(start_step: int) -> Started:
    return Started(
        total_steps=100,
        start_step=start_step,
        num_records=40,
        num_examples=40,
        num_truncated_records=0,
        tokens_per_epoch=10,
        device="cpu",
        num_trainable_parameters=1,
        microbatch_tokens=8,
        activation_checkpointing=False,
    )


STEPS = [step(number) for number in range(1, 41)]
STOPPED = StoppedEarly(step=40, reason="2 evaluations without a lower loss")


@pytest.mark.parametrize(
    ("messages", "cap"),
    [
        ([started(0), *STEPS], CAP),
        ([started(0), *STEPS, STOPPED], None),
        ([started(0), step(100)], None),
        ([started(40)], CAP),
        ([started(40), STOPPED], None),
        ([started(100)], None),
    ],
    ids=["steps", "early-stop", "all-steps", "resumed", "resumed-early-stop", "resumed-export"],
)
def test_a_budget_that_is_used_up_during_the_export_lets_it_finish(
    embedded_backend: Backend, messages: list[TrainerMessage], cap: str | None
) -> None:
    assert read_messages(embedded_backend, *messages)[1] == cap


@pytest.mark.parametrize(
    ("before", "cap"),
    [
        (JobProgress(step=40, total_steps=100), CAP),
        (JobProgress(step=40, total_steps=100, stopped_early=True), None),
        (JobProgress(step=100, total_steps=100), None),
    ],
    ids=["steps-left", "stopped-early", "all-steps"],
)
def test_an_attempt_that_has_only_the_export_to_do_is_let_begin(
    embedded_backend: Backend, before: JobProgress, cap: str | None
) -> None:
    assert read_messages(embedded_backend, before=before)[1] == cap


def test_no_time_is_left_for_steps_after_an_early_stop(embedded_backend: Backend) -> None:
    progress, _ = read_messages(embedded_backend, started(0), *STEPS, STOPPED)
    now = progress.snapshot()
    assert (now.step, now.total_steps, now.percent, now.eta_seconds) == (40, 100, 40.0, 0.0)
    assert now.stopped_early
    assert not progress.all_steps_done, "a comparison with the estimate leaves it out"
