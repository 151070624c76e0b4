import re

from app.models import Job

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def fine_tuned_model_id(job: Job, project_name: str) -> str:
    """`ft:<base>:<project>:<suffix>:<8 of the job's id>`, with its field empty where there is no suffix."""
    # The last characters of an id are its random ones; the first are a clock.
    return f"ft:{job.base_model_id}:{UNSAFE.sub('-', project_name)}:{job.suffix or ''}:{job.id[-8:]}"
