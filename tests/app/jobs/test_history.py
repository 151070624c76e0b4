from app.jobs import claims, history, repository
from app.jobs.claims import Claim
from app.jobs.effective_steps import EffectiveSteps
from app.jobs.events import NewEvent
from app.models import Event, Job
from tests.support.backend import Backend
from tests.support.plans import statements


def attempt(backend: Backend, start: int | None, end: int, *, lost: bool = False) -> None:
    with backend.database.transaction() as session:
        job = claims.claim(session, owner="w", device="cpu", num_devices=1, lease_seconds=60)
        assert job is not None
        claim = Claim(job.id, job.attempt, "w")
        drafts = [
            NewEvent("step", type="metrics", data={"step": step})
            for step in range((start or 0) + 1, end + 1)
        ]
        claims.append_events(session, claim, [NewEvent("began"), *drafts])
        if start is not None:
            claims.update_attempt(session, claim, start_step=start)
        claims.release(
            session, claim, NewEvent("handed back"), counts_as_failure=lost, max_infra_failures=9
        )


def test_the_history_names_the_steps_that_an_attempt_repeated(backend: Backend) -> None:
    job_id = backend.add_job()
    attempt(backend, 0, 8, lost=True)
    # rewound to the checkpoint, and lost before it was where the first had been
    attempt(backend, 5, 7, lost=True)
    attempt(backend, None, 0)  # never came to its training
    attempt(backend, 5, 12)
    attempt(backend, 12, 20)
    with statements(backend.database) as executed, backend.database.read() as session:
        job = session.get_one(Job, job_id)
        messages = repository.messages(session, job_id, limit=100)
        before = len(executed)
        spans = history.list_spans(session, job, messages)
        assert len(executed) - before == 2, "the attempts, and their steps"
    assert [(span.start, span.end, span.repeated) for span in spans] == [
        (0, 8, 0),
        (5, 7, 3),
        (None, None, 0),
        (5, 12, 3),
        (12, 20, 0),
    ]
    with backend.database.read() as session:
        job = session.get_one(Job, job_id)
        newest = repository.messages(session, job_id, limit=2)
        spans = history.list_spans(session, job, newest)
    assert [(span.start, span.end, span.repeated) for span in spans] == [
        (0, 5, 0),
        (5, 5, 0),
        (None, None, 0),
        (5, 12, 0),
        (12, 20, 0),
    ], "at least as far as the next one began, where no message says when"


def answers(seq: int, step: int, completion: str) -> Event:
    samples = [
        {"prompt": prompt, "completion": completion, "expected": "four"} for prompt in ("a", "b")
    ]
    return Event(
        job_id="j",
        seq=seq,
        attempt=1,
        level="info",
        type="message",
        message="",
        data={"step": step, "samples": samples},
    )


def test_answers_stand_side_by_side_in_the_order_of_their_steps() -> None:
    other = Event(job_id="j", seq=9, attempt=1, level="info", type="message", message="", data=None)
    newest_first = [
        answers(12, 20, "second again"),
        other,
        answers(8, 20, "second"),
        answers(4, 10, "first"),
    ]
    prompts = history.list_prompts(newest_first, EffectiveSteps())
    assert [(prompt.prompt, prompt.expected, prompt.completions) for prompt in prompts] == [
        ("a", "four", [(10, "first"), (20, "second again")]),
        ("b", "four", [(10, "first"), (20, "second again")]),
    ]


def test_of_many_evaluations_the_first_the_last_and_some_between_are_shown() -> None:
    (prompt, _) = history.list_prompts(
        [answers(seq, seq, str(seq)) for seq in range(1, 101)], EffectiveSteps()
    )
    steps = [step for step, _ in prompt.completions]
    assert len(steps) == history.MAX_EVALUATIONS
    assert (steps[0], steps[-1]) == (1, 100)
    assert steps == sorted(steps)
