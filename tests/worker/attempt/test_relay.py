import os
from collections.abc import Callable
from contextlib import closing
from io import BytesIO

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from falqon_core.contract.figures import MAX_TEXT
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    Finished,
    Log,
    Merged,
    Sample,
    Sampled,
    TrainerMessage,
    UntouchedEvaluated,
    encode,
)
from tests.support.backend import Backend
from tests.worker.attempt.relays import add_running_job, gateway_of, progress_of, relay_of
from tests.worker.attempt.test_progress import step
from worker.attempt.relay import MAX_BATCH, MAX_LINE_BYTES
from worker.attempt.spool import Spool

pytestmark = pytest.mark.both_databases


def ignore(_saved: CheckpointSaved) -> None: ...


def relayed(
    backend: Backend,
    lines: bytes,
    on_checkpoint: Callable[[CheckpointSaved], None] = ignore,
    before: Callable[[], None] = lambda: None,
) -> str:
    """What a trainer wrote goes into the events of the job whose id is returned."""
    job_id = add_running_job(backend)
    spool = Spool(backend.settings.data_dir / "events.spool")
    relay = relay_of(backend, job_id, gateway_of(backend), spool, on_checkpoint)
    read_end, write_end = os.pipe()
    relay.read(os.fdopen(read_end, "rb"))
    os.write(write_end, lines)
    os.close(write_end)
    relay.join(60)
    before()
    relay.flush()
    spool.close()
    return job_id


def test_noise_on_the_pipe_is_passed_over(backend: Backend) -> None:
    saved: list[CheckpointSaved] = []
    checkpoint = CheckpointSaved(step=1, path="/x", bytes=1, manifest_sha256="0", metrics={})
    noise = b'{"type": "nonsense"}\nnot json\n'
    job_id = relayed(
        backend,
        encode(Log(text="before"))
        + noise
        + encode(checkpoint)
        + encode(Log(level="warn", text="after")),
        saved.append,
    )
    assert [(event.message, event.level) for event in backend.events(job_id)] == [
        ("before", "info"),
        ("after", "warn"),
    ]
    assert saved == [checkpoint]


def test_a_log_is_a_sign_of_life(backend: Backend) -> None:
    now = 0.0
    job_id = add_running_job(backend)
    progress = progress_of(backend, job_id, lambda: now)
    with closing(Spool(backend.settings.data_dir / "events.spool")) as spool:
        relay = relay_of(backend, job_id, gateway_of(backend), spool, progress=progress)
        now = 3600.0
        relay.read(BytesIO(encode(Log(text="reference: 20 of 90 pairs are read"))))
        relay.join(60)
    now += 60.0
    assert not progress.is_stuck(floor=600.0)


def test_an_impossible_figure_makes_no_message(backend: Backend) -> None:
    """A trainer may have been taken over by the data that it reads."""
    saved: list[CheckpointSaved] = []
    line = encode(CheckpointSaved(step=1, path="/", bytes=1, manifest_sha256="0", metrics={}))
    lies = [line.replace(b'"bytes":1', b'"bytes":%d' % 2**70)]
    lies += [line.replace(b"{}", b'{"valid_loss":%s}' % loss) for loss in (b"1e999", b"1e300")]
    long = encode(Log(text="x" * MAX_TEXT))[:-3] + b"x" * MAX_LINE_BYTES + b'"}\n'
    job_id = relayed(backend, b"".join(lies) + encode(Log(text="y" * 2 * MAX_TEXT)), saved.append)
    assert saved == []
    assert [event.message for event in backend.events(job_id)] == ["y" * MAX_TEXT]
    assert backend.events(relayed(backend, long)) == []


def test_characters_that_no_database_keeps_are_replaced_in_samples(backend: Backend) -> None:
    """A model may answer any byte; NUL in one event must not end the attempt."""
    sample = Sample(prompt="How many?", completion="a\x00b", expected="Seven.")
    lines = encode(Sampled(step=40, samples=[sample])) + encode(Log(text="after\x00"))
    sampled, after = backend.events(relayed(backend, lines))
    assert sampled.data is not None
    assert sampled.data["samples"][0]["completion"] == "a\ufffdb"
    assert after.message == "after\ufffd"


def test_losses_of_a_merged_model_stand_at_the_newest_step(backend: Backend) -> None:
    """Also where the model is of an earlier one, which would look like another attempt."""
    merged = Merged(step=2, valid_loss=1.25, valid_loss_fp8_weights=1.3, valid_loss_as_served=1.375)
    lines = b"".join(encode(step(number)) for number in (1, 2, 3)) + encode(merged)
    *_, last = backend.events(relayed(backend, lines))
    assert last.data == {"step": 3, "valid_loss_fp8_weights": 1.3, "valid_loss_as_served": 1.375}


def test_samples_and_an_early_stop_become_events(backend: Backend) -> None:
    sample = Sample(prompt="How many?", completion="Six.", expected="Seven.")
    finished = Finished(
        steps=40,
        trained_tokens=1,
        elapsed_seconds=1.0,
        early_stop="2 evaluations without a lower loss",
        best_step=20,
    )
    job_id = relayed(backend, encode(Sampled(step=40, samples=[sample])) + encode(finished))
    sampled, stopped = backend.events(job_id)
    assert (sampled.type, sampled.data) == (
        "message",
        {"step": 40, "samples": [sample.model_dump()]},
    )
    assert stopped.message.startswith(
        "Training stopped early at step 40: 2 evaluations without a lower loss"
    )
    assert stopped.data == {"step": 40, "best_step": 20}


def test_a_finding_on_health_is_told_once_and_stays_on_the_job(backend: Backend) -> None:
    steps = (encode(step(number, total=30)) for number in range(1, 31))
    job_id = relayed(backend, b"".join(steps))
    (told,) = [event for event in backend.events(job_id) if event.type == "message"]
    assert told.level == "warn"
    assert told.message.startswith("Health: the training loss has not fallen by more than its")
    assert told.data is not None
    assert (told.data["health"], told.data["step"], told.data["is_over"]) == (
        "not_learning",
        15,
        False,
    )
    progress = backend.job(job_id).progress
    assert progress is not None
    (finding,) = progress.health
    assert (finding.code, finding.step, progress.first_loss) == ("not_learning", 30, 1.0)


def test_a_model_no_better_than_its_base_fails_the_health_of_its_job(backend: Backend) -> None:
    """The loss before training is told as a message: no metric of any step."""
    finished = Finished(steps=3, trained_tokens=1, elapsed_seconds=1.0, best_step=1)
    messages: list[TrainerMessage] = [UntouchedEvaluated(valid_loss=0.9)]
    for number in (1, 2, 3):
        loss = 1.3 + number / 10
        messages += [step(number, total=3), Evaluated(step=number, valid_loss=loss)]
    job_id = relayed(backend, b"".join(map(encode, [*messages, finished])))
    told = [event for event in backend.events(job_id) if event.type == "message"]
    assert told[0].message == "Before training: validation loss=0.90"
    assert told[-1].level == "warn"
    assert told[-1].message.startswith("Health: the model is no better than its base on held-out")
    progress = backend.job(job_id).progress
    assert progress is not None
    findings = [(each.code, each.step, each.is_failing) for each in progress.health]
    assert ("no_better", 1, True) in findings
    assert (progress.untouched_valid_loss, progress.valid_loss) == (0.9, 1.6)


def test_a_batch_whose_commit_nobody_confirmed_is_written_once(backend: Backend) -> None:
    """The database commits and the answer is lost, after the first batch and again after the
    second.
    """
    lost = 0

    def lose_the_answer(_session: Session) -> None:
        nonlocal lost
        if lost < 2:
            lost += 1
            raise OperationalError("COMMIT", {}, ConnectionError("server closed the connection"))

    lines = b"".join(encode(Log(text=f"{number}")) for number in range(MAX_BATCH + 5))
    try:
        job_id = relayed(
            backend, lines, before=lambda: event.listen(Session, "after_commit", lose_the_answer)
        )
    finally:
        event.remove(Session, "after_commit", lose_the_answer)
    events = backend.events(job_id)
    assert lost == 2
    assert [event.message for event in events] == [f"{number}" for number in range(MAX_BATCH + 5)]
    assert [event.seq for event in events] == list(range(1, MAX_BATCH + 6))


def test_a_zombie_relays_nothing(backend: Backend) -> None:
    job_id = relayed(backend, encode(Log(text="mine")))
    with backend.database.transaction() as session:
        assert not claims.append_trainer_events(
            session, Claim(job_id, 1, "somebody else"), [NewEvent("not mine")], 1
        )
        assert not claims.append_trainer_events(
            session, Claim(job_id, 2, "me"), [NewEvent("not mine")], 1
        )
    assert [event.message for event in backend.events(job_id)] == ["mine"]
