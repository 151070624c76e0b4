"""Requests for jobs here, made from jobs there."""

from app.client.api import Json
from app.client.move.objects import OriginJob

ORIGIN = "moved_from"  # Key of a job's metadata here: its id there.
MAX_METADATA_PAIRS = 16
# Share of the lines that OpenAI trains on, where the account reports only the size of the file.
BYTES_PER_TOKEN = 4
BYTES_PER_RECORD = 1000
# Hyperparameters that fit a model and its data: those of another model say nothing here. Where they
# were left to OpenAI, its API tells what it chose, and not that they were.
CHOSEN_THERE = ("n_epochs", "batch_size", "learning_rate_multiplier")


def key_of(origin_id: str) -> str:
    """Return the idempotency key of what is moved: however often, it is here once."""
    return f"move:openai:{origin_id}"


def has_room(job: OriginJob) -> bool:
    """Return True if the metadata can also name the origin."""
    return len(job.metadata or {}) < MAX_METADATA_PAIRS


def job_body(
    job: OriginJob, model: str, training_file: str, validation_file: str | None, *, keep: bool
) -> Json:
    """Return the same for the same job each time. `keep`: also the hyperparameters that were chosen
    there.
    """
    metadata = dict(job.metadata or {})
    if has_room(job):
        metadata[ORIGIN] = job.id
    fields = {
        "training_file": training_file,
        "validation_file": validation_file,
        "suffix": job.clean_suffix,
        "seed": job.seed,
        "metadata": metadata,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return {"model": model, **_method(job, keep), **given}


def estimate_body(
    job: OriginJob, model: str, num_bytes: int, last_step: int | None, *, keep: bool
) -> Json:
    """Ask what the job will take before its file is here, from what the account says of it."""
    data: Json = {"training_data": _size(job, num_bytes, last_step)}
    if job.validation_file:
        data["validation_file"] = job.validation_file
    return {"model": model, **_method(job, keep), **data}


def dropped_settings(job: OriginJob, keep: bool) -> Json:
    """Return the hyperparameters there that are left to this service."""
    return {
        name: value
        for name, value in job.settings.items()
        if not keep and name in CHOSEN_THERE and value != "auto"
    }


def _method(job: OriginJob, keep: bool) -> Json:
    dropped = dropped_settings(job, keep)
    settings = {name: value for name, value in job.settings.items() if name not in dropped}
    type_ = job.method_type
    return {"method": {"type": type_, type_: {"hyperparameters": settings}}}


def _size(job: OriginJob, num_bytes: int, last_step: int | None) -> Json:
    num_epochs = job.settings.get("n_epochs")
    batch_size = job.settings.get("batch_size")
    num_tokens = num_bytes // BYTES_PER_TOKEN
    num_records = num_bytes // BYTES_PER_RECORD
    if job.trained_tokens and isinstance(num_epochs, int):
        num_tokens = job.trained_tokens // max(1, num_epochs)
    if last_step and isinstance(num_epochs, int) and isinstance(batch_size, int):
        num_records = last_step * batch_size // max(1, num_epochs)
    return {"num_records": max(1, num_records), "num_tokens": max(1, num_tokens)}
