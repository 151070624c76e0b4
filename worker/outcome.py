"""What the end of a trainer process means for its job. Pure."""

import signal
from enum import Enum, auto
from typing import NamedTuple

from app.jobs.claims import Failure
from falqon_core.spec.messages import ENDLESS_TEMPLATE, ExitCode, Failed


class Verdict(Enum):
    SUCCEEDED = auto()
    FAILED = auto()  # the user's to solve; never tried again
    STOPPED = auto()  # handed back where the user or the machine wants it; costs nothing
    LOST = auto()  # a fault of ours or of the machine; tried again, up to a limit


class Outcome(NamedTuple):
    verdict: Verdict
    failure: Failure | None = None


def classify(exit_code: int, *, stop_asked: bool, failed: Failed | None) -> Outcome:
    """`stop_asked`: we sent SIGTERM, for a wish or a drain; then also a death by signal is a stop (we kill what does not obey)."""
    told = Failure(failed.code, failed.message, failed.param) if failed else None
    match exit_code:
        case ExitCode.DONE:
            return Outcome(Verdict.SUCCEEDED)
        case ExitCode.USER_ERROR:
            return Outcome(Verdict.FAILED, told or Failure("invalid_job", "The trainer refused the job without saying why."))
        case ExitCode.OUT_OF_MEMORY:
            return Outcome(Verdict.FAILED, told or Failure("out_of_memory", "The job needs more memory than the device has."))
        case ExitCode.STOPPED:  # asked by us or by an init system that signals every process at once
            return Outcome(Verdict.STOPPED)
        case code if code == ENDLESS_TEMPLATE:
            return Outcome(Verdict.FAILED, Failure("model_refused", "The model's chat template does not come to an end.", "model"))
        case code if code < 0 and stop_asked:
            return Outcome(Verdict.STOPPED)
        case code if code < 0:
            return Outcome(Verdict.LOST, Failure("trainer_killed", f"The trainer was killed by {signal_name(-code)}."))
        case code:
            return Outcome(Verdict.LOST, told or Failure("internal_error", f"The trainer ended with exit code {code}."))


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
