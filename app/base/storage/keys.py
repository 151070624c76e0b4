"""Storage keys, all built here from our own ids and checked names, never from a user's text. Keys
of what workers write hold the attempt: a worker that was taken for dead overwrites nothing.
"""

import re

UNSAFE_CHARACTERS = re.compile(r"[\\:%]")  # other separators, and what some layer may decode to one
TRAINER_LOG_PATTERN = re.compile(r"projects/[^/]+/jobs/([^/]+)/\d+/log/[^/]+")
MAX_NAME = 255

ROOTS = ("projects/", "models/")  # all that rows name is below these


def file_content(project_id: str, file_id: str) -> str:
    return f"projects/{project_id}/files/{file_id}"


def imported_content(project_id: str, file_id: str, attempt: int) -> str:
    return f"{file_content(project_id, file_id)}.{attempt}"


def upload_part(project_id: str, upload_id: str, part_id: str) -> str:
    return f"projects/{project_id}/uploads/{upload_id}/{part_id}"


def base_model_file(model_id: str, name: str) -> str:
    return f"models/{relative(model_id)}/{relative(name)}"


def attempt_prefix(project_id: str, job_id: str, attempt: int) -> str:
    return f"projects/{project_id}/jobs/{job_id}/{attempt}"


def checkpoint_prefix(project_id: str, job_id: str, attempt: int, step: int) -> str:
    return f"{attempt_prefix(project_id, job_id, attempt)}/checkpoints/{step}"


def log_prefix(project_id: str, job_id: str, attempt: int) -> str:
    return f"{attempt_prefix(project_id, job_id, attempt)}/log"


def trainer_log(project_id: str, job_id: str, attempt: int) -> str:
    return f"{log_prefix(project_id, job_id, attempt)}/trainer.json"


def job_of_log(key: str) -> str | None:
    """Return the job whose log may have this key."""
    match = TRAINER_LOG_PATTERN.fullmatch(key)
    return match[1] if match else None


def result_file(project_id: str, job_id: str, attempt: int, name: str) -> str:
    return f"{result_prefix(project_id, job_id, attempt)}/{relative(name)}"


def result_prefix(project_id: str, job_id: str, attempt: int) -> str:
    return f"{attempt_prefix(project_id, job_id, attempt)}/model"


def export_file(project_id: str, export_id: str, number: int, name: str) -> str:
    return f"{export_prefix(project_id, export_id, number)}/{relative(name)}"


def export_prefix(project_id: str, export_id: str, number: int) -> str:
    return f"projects/{project_id}/exports/{export_id}/{number}"


def evaluation_card(project_id: str, evaluation_id: str, number: int) -> str:
    return f"projects/{project_id}/evaluations/{evaluation_id}/{number}.md"


def probe() -> str:
    """Return the key that is written to check that the storage accepts writes."""
    return "probe"


def installation() -> str:
    """Return the key of the id by which the storage knows its database."""
    return "installation"


def generation() -> str:
    """Return the key of the number that counts up with the database; see
    `app.garbage.installation`.
    """
    return "installation-generation"


def relative(name: str) -> str:
    """Return `name` if as a path it stays below its folder, on any system. Raises `ValueError`."""
    parts = name.split("/")
    if (
        not all(part.isprintable() and part not in ("", ".", "..") for part in parts)
        or UNSAFE_CHARACTERS.search(name)
        or len(name) > MAX_NAME
    ):
        raise ValueError(f"not a plain relative name: {name[:100]!r}")
    return name
