"""The meaning of a trainer's end for its job. Pure functions."""

import signal
from dataclasses import dataclass

from app.attempts.values import AttemptOutcome, Verdict
from app.jobs.claims import JobFailure
from falqon_core.contract.errors import DiskFull
from falqon_core.contract.messages import ENDLESS_TEMPLATE, ExitCode, Failed

# An operator, or a kernel that is out of memory.
OUTSIDE_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

# Failures of a trainer that did not say why, by its exit code.
REFUSALS = {
    int(ExitCode.USER_ERROR): JobFailure(
        "invalid_job", "The trainer refused the job without saying why."
    ),
    int(ExitCode.OUT_OF_MEMORY): JobFailure(
        "out_of_memory", "The job needs more memory than the device has."
    ),
    int(ExitCode.CERTIFICATE_MISMATCH): JobFailure(
        "certificate_mismatch", "The exported files are not the trained model."
    ),
    ENDLESS_TEMPLATE: JobFailure(
        "model_refused", "The model's chat template does not come to an end.", "model"
    ),
}


@dataclass(frozen=True, slots=True)
class TrainerEnd:
    """The end of a trainer process.

    `stop_requested`: we sent SIGTERM, for a stop request or a drain, or were about to; then a death
    by signal is a stop, too (we kill what does not obey). `hung`: it made no progress, and we
    killed it.
    """

    exit_code: int
    stop_requested: bool = False
    hung: bool = False


def classify(end: TrainerEnd, failed: Failed | None) -> AttemptOutcome:
    """`failed` is the trainer's own message."""
    failure = JobFailure(failed.code, failed.message, failed.param) if failed else None
    if end.hung:
        return AttemptOutcome(
            Verdict.LOST,
            JobFailure("trainer_hung", "The trainer made no progress any more and was killed."),
        )
    match end.exit_code:
        case ExitCode.DONE:
            return AttemptOutcome(Verdict.SUCCEEDED)
        case code if code in REFUSALS:
            return AttemptOutcome(Verdict.FAILED, failure or REFUSALS[code])
        # On our request, or on that of an init system that signals every process at once.
        case ExitCode.STOPPED:
            return AttemptOutcome(Verdict.STOPPED)
        case ExitCode.INTERNAL if failure is not None and failure.code == DiskFull.code:
            return AttemptOutcome(Verdict.DISK_FULL)
        case code if code < 0 and end.stop_requested:
            return AttemptOutcome(Verdict.STOPPED)
        case code if -code in OUTSIDE_SIGNALS:
            return AttemptOutcome(
                Verdict.LOST,
                JobFailure("trainer_killed", f"The trainer was killed by {signal_name(-code)}."),
            )
        case code if code < 0:
            return AttemptOutcome(
                Verdict.LOST,
                JobFailure("trainer_crashed", f"The trainer crashed with {signal_name(-code)}."),
            )
        case code:
            return AttemptOutcome(
                Verdict.LOST,
                failure
                or JobFailure("internal_error", f"The trainer ended with exit code {code}."),
            )


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
