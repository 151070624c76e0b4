from celery import shared_task

from app.notifier.broker import ANSWER_PROMPT, CHECK_FILE, EXPORT_MODEL, INSPECT_FILE, LOOK_FOR_JOB
from worker import process


@shared_task(name=LOOK_FOR_JOB)  # type: ignore[untyped-decorator]
def look_for_job(job_id: str) -> None:
    """The id is for the log: whichever job is oldest is taken, and then the next, until none is left."""
    process.gpu_worker().poll()


@shared_task(name=CHECK_FILE)  # type: ignore[untyped-decorator]
def check_file(file_id: str) -> None:
    process.cpu_worker().check(file_id)


@shared_task(name=INSPECT_FILE)  # type: ignore[untyped-decorator]
def inspect_file(file_id: str) -> None:
    """The id is for the log: the oldest question is answered, and then the next, until none is left."""
    process.inspector().poll()


@shared_task(name=EXPORT_MODEL)  # type: ignore[untyped-decorator]
def export_model(export_id: str) -> None:
    """The id is for the log: the oldest wish is fulfilled, and then the next, until none is left."""
    process.exporter().poll()


@shared_task(name=ANSWER_PROMPT)  # type: ignore[untyped-decorator]
def answer_prompt(trial_id: str) -> None:
    """The id is for the log: the oldest prompt is answered, and then the next, until none is left."""
    process.answerer().poll()
