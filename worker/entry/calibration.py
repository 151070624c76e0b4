"""A very short training of the smallest model, once, while a new worker waits for its first job: by
it the first estimates know what start, steps and export take on this machine.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.base.ids import new_id
from app.base.processes.nvidia import card_environment
from app.base.processes.subprocess_env import offline_environment
from app.jobs import repository as jobs
from app.workers import service as workers
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.messages import AnyMessage, StepMetrics
from falqon_core.estimate.calibration import Calibration, Timeline
from worker.context import WorkerContext
from worker.machine import pulse
from worker.machine.card_locks import lock_cards
from worker.machine.gpu import Machine, mark_seen
from worker.machine.scratch import scratch
from worker.machine.subprocesses import ToolFailed, run_tool

NUM_STEPS = 120  # The first fifty are slow while the verifier starts on the same cores.
BATCH_SIZE = 4
CALIBRATION_SECONDS = 300.0
JOB_POLL_SECONDS = 1.0
MAX_REASON_CHARACTERS = 500
SAMPLE_RECORD = {
    "messages": [
        {"role": "user", "content": "What is two and two?"},
        {"role": "assistant", "content": "It is four."},
    ]
}

log = structlog.get_logger()


class _GivenUp(Exception):
    """A job needs the machine, or it takes too long."""


def calibrate_worker(context: WorkerContext, machine: Machine) -> bool:
    """Store what a short training takes here, unless that is known; return whether there is nothing
    more to do. A job that comes meanwhile ends it.
    """
    if not context.settings.calibrate:
        return True
    with context.database.read() as session:
        if workers.calibration_of(session, machine.device) is not None:
            return True
        if jobs.any_waits_or_runs(session):
            return False
    try:
        with (
            lock_cards(machine.cards, 1, machine.unit) as cards,
            scratch(context.settings.work_dir / "calibration", new_id("")) as folder,
        ):
            if machine.cards and not cards:
                return False
            calibration = _measure(context, machine, cards, folder)
    except _GivenUp as reason:
        log.info("calibration given up", reason=str(reason))
        return False
    except ToolFailed as reason:
        log.warning("calibration failed", reason=str(reason)[:MAX_REASON_CHARACTERS])
        return True
    if calibration is None:
        log.warning("calibration says nothing")
        return True
    log.info("calibrated", **calibration.model_dump())
    with context.database.transaction() as session:
        mark_seen(session, context, machine)
        workers.store_calibration(session, context.owner, calibration)
    return True


def _measure(
    context: WorkerContext, machine: Machine, cards: Sequence[int], folder: Path
) -> Calibration | None:
    """Raises `_GivenUp` and `ToolFailed`."""
    program = context.settings.trainer_command
    environment = offline_environment(os.environ)
    if cards:
        environment |= card_environment(cards if machine.is_gpu else ())
    deadline = time.monotonic() + CALIBRATION_SECONDS
    poll_at = 0.0

    def check() -> None:
        nonlocal poll_at
        now = time.monotonic()
        if context.shutting_down.is_set() or now > deadline:
            raise _GivenUp("the worker ends, or the time is up")
        if now < poll_at:
            return
        poll_at = now + JOB_POLL_SECONDS
        pulse.beat()
        with context.database.transaction() as session:
            mark_seen(session, context, machine)
            if jobs.any_waits_or_runs(session):
                raise _GivenUp("a job has come")

    model = folder / "model"
    run_tool(program, ["import", "builtin:falqon-tiny", "--output", str(model)], check)
    records = folder / "records.jsonl"
    records.write_text(f"{json.dumps(SAMPLE_RECORD)}\n" * (NUM_STEPS * BATCH_SIZE))
    config = TrainConfig(
        model=model,
        train_file=records,
        recipe=Recipe(num_epochs=1, batch_size=BATCH_SIZE, validation_fraction=0.0).resolved(
            NUM_STEPS * BATCH_SIZE
        ),
        device="cuda" if machine.is_gpu else "cpu",
        num_threads=None if machine.is_gpu else machine.num_devices,
    )
    config.write(folder / "config.json")
    first = 0.0
    steps: list[float] = []
    begun = time.monotonic()

    def on_message(message: AnyMessage) -> None:
        nonlocal first
        if isinstance(message, StepMetrics):
            first = first or time.monotonic() - begun
            steps.append(message.elapsed_seconds)

    arguments = ["train", "--config", str(folder / "config.json"), "--output", str(folder / "out")]
    run_tool(program, arguments, check, on_message, environment)
    return Calibration.of(Timeline(first, steps, time.monotonic() - begun))
