"""The trainer's `doctor`, run once when a worker that was promised a GPU starts: what its card can
do stands beside it on the Workers page.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence

import structlog
from pydantic import ValidationError

from app.base.processes.child_process import ChildProcess
from app.base.processes.device import why_cards_are_unused
from app.base.processes.nvidia import card_environment
from app.base.processes.subprocess_env import offline_environment
from app.workers import service as workers
from falqon_core.contract.diagnosis import CheckRow, Diagnosis
from worker.context import WorkerContext
from worker.machine.card_locks import lock_cards
from worker.machine.gpu import Machine, mark_seen

DOCTOR_SECONDS = 120.0  # Doctor ends by itself within a minute, unless something in it hangs.
DOCTOR_POLL_SECONDS = 0.1

log = structlog.get_logger()


def diagnose_worker(context: WorkerContext, machine: Machine) -> None:
    """Store the diagnosis of an unused card; for a CPU only the reason why it replaces a card."""
    if not machine.is_gpu:
        if reason := why_cards_are_unused(context.settings):
            row = CheckRow(name="GPU", status="failed", detail=reason, seconds=0.0)
            _store(context, machine, Diagnosis(rows=(row,), seconds=0.0))
        return
    with lock_cards(machine.cards, 1) as cards:
        if machine.cards and not cards:
            return
        diagnosis = _run_doctor(context, cards)
    if diagnosis is None:
        return
    for row in diagnosis.rows:
        if row.status == "failed":
            log.warning("doctor found a fault", check=row.name, detail=row.detail)
    log.info("doctor ended", found=diagnosis.summary)
    _store(context, machine, diagnosis)


def _store(context: WorkerContext, machine: Machine, diagnosis: Diagnosis) -> None:
    with context.database.transaction() as session:
        mark_seen(session, context, machine)
        workers.store_diagnosis(session, context.owner, diagnosis)


def _run_doctor(context: WorkerContext, cards: Sequence[int]) -> Diagnosis | None:
    """Return the diagnosis; None when there is none, or this worker should end."""
    environment = offline_environment(os.environ)
    if cards:
        environment |= card_environment(cards)
    command = [*context.settings.trainer_command, "doctor", "--json"]
    deadline = time.monotonic() + DOCTOR_SECONDS
    with (
        tempfile.TemporaryFile() as output,
        ChildProcess(command, environment, stdout=output, stderr=subprocess.DEVNULL) as process,
    ):
        while process.wait_up_to(DOCTOR_POLL_SECONDS) is None:
            if context.shutting_down.is_set():
                return None
            if time.monotonic() > deadline:
                log.warning("doctor hangs", seconds=DOCTOR_SECONDS)
                return None
        output.seek(0)
        try:
            return Diagnosis.model_validate_json(output.read())
        except ValidationError:
            log.warning("doctor says nothing", exit_code=process.returncode)
            return None
