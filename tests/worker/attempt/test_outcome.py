import signal

import pytest

from app.attempts.values import Verdict
from falqon_core.contract.messages import ExitCode, Failed
from worker.attempt.outcome import TrainerEnd, classify

MESSAGE = Failed(code="loss_not_finite", message="NaN", param="learning_rate")


@pytest.mark.parametrize(
    ("exit_code", "stop_requested", "failed", "verdict", "code"),
    [
        (ExitCode.DONE, False, None, Verdict.SUCCEEDED, None),
        (ExitCode.DONE, True, None, Verdict.SUCCEEDED, None),
        (ExitCode.USER_ERROR, False, MESSAGE, Verdict.FAILED, "loss_not_finite"),
        (ExitCode.USER_ERROR, True, None, Verdict.FAILED, "invalid_job"),
        (ExitCode.OUT_OF_MEMORY, False, None, Verdict.FAILED, "out_of_memory"),
        (ExitCode.CERTIFICATE_MISMATCH, False, MESSAGE, Verdict.FAILED, "loss_not_finite"),
        (ExitCode.CERTIFICATE_MISMATCH, True, None, Verdict.FAILED, "certificate_mismatch"),
        (ExitCode.STOPPED, True, None, Verdict.STOPPED, None),
        (ExitCode.STOPPED, False, None, Verdict.STOPPED, None),
        (-signal.SIGKILL, True, None, Verdict.STOPPED, None),
        (-signal.SIGKILL, False, None, Verdict.LOST, "trainer_killed"),
        (-signal.SIGPROF, False, None, Verdict.FAILED, "model_refused"),
        (-signal.SIGPROF, True, None, Verdict.FAILED, "model_refused"),
        (-signal.SIGSEGV, False, MESSAGE, Verdict.LOST, "trainer_crashed"),
        (
            ExitCode.INTERNAL,
            False,
            Failed(code="checkpoint_corrupt", message="torn"),
            Verdict.LOST,
            "checkpoint_corrupt",
        ),
        (ExitCode.INTERNAL, True, None, Verdict.LOST, "internal_error"),
        (
            ExitCode.INTERNAL,
            False,
            Failed(code="disk_full", message="full"),
            Verdict.DISK_FULL,
            None,
        ),
        (1, False, None, Verdict.LOST, "internal_error"),
    ],
)
def test_an_end_means(
    exit_code: int, stop_requested: bool, failed: Failed | None, verdict: Verdict, code: str | None
) -> None:
    outcome = classify(TrainerEnd(exit_code, stop_requested), failed)
    assert outcome.verdict is verdict
    assert (outcome.failure.code if outcome.failure else None) == code


def test_the_trainers_own_words_reach_the_user() -> None:
    failure = classify(TrainerEnd(ExitCode.USER_ERROR), MESSAGE).failure
    assert failure == ("loss_not_finite", "NaN", "learning_rate")


def test_a_signal_is_named() -> None:
    failure = classify(TrainerEnd(-9), None).failure
    assert failure is not None
    assert failure.message == "The trainer was killed by SIGKILL."


def test_a_trainer_killed_for_hanging_is_lost_whatever_its_exit_code() -> None:
    outcome = classify(TrainerEnd(-signal.SIGKILL, stop_requested=True, hung=True), None)
    assert outcome.verdict is Verdict.LOST
    assert outcome.failure is not None
    assert outcome.failure.code == "trainer_hung"
