import re

from app.models import Job

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def fine_tuned_model_id(job: Job, project_name: str) -> str:
    """`ft:<base>:<project>:<suffix>:<8 of the job's id>`, with its field empty where there is no suffix.

    What continues from a fine-tuned model is named by the base at the beginning of all.
    """
    base = job.base_model_id.split(":")[1] if job.base_model_id.startswith("ft:") else job.base_model_id
    # The last characters of an id are its random ones; the first are a clock.
    return f"ft:{base}:{UNSAFE.sub('-', project_name)}:{job.suffix or ''}:{job.id[-8:]}"
