import re

from app.models import Job

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def fine_tuned_model_id(job: Job, project_name: str) -> str:
    """`ft:<base>:<project>:<suffix>:<8 of the job's id>`; without a suffix its field stays empty."""
    return f"ft:{job.base_model_id}:{UNSAFE.sub('-', project_name)}:{job.suffix or ''}:{job.id[-8:]}"
