"""What only the service knows of a model goes into its certificate, before anybody has read it."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from app.models.base import JsonObject
from falqon_core.contract.certificate import CERTIFICATE, Certificate, Cost, Service

SUMS = "SHA256SUMS"


class ExportDamaged(Exception):
    """The exported files are not what their own list says."""


def complete(folder: Path, job_id: str, model_id: str, cost: JsonObject | None) -> None:
    """`cost` as `jobs.progress` has it. Raises `ExportDamaged` for a folder that nothing proves."""
    path = folder / CERTIFICATE
    try:
        content = path.read_bytes()
        certificate = Certificate.model_validate_json(content)
    except (FileNotFoundError, ValidationError) as error:
        raise ExportDamaged(f"{CERTIFICATE} is missing or unreadable") from error
    if certificate.failed or sums(folder).get(CERTIFICATE) != hashlib.sha256(content).hexdigest():
        raise ExportDamaged(f"{CERTIFICATE} proves nothing")
    known = Service(job=job_id, model=model_id, cost=None if cost is None else Cost(**{name: cost[name] for name in Cost.model_fields}))
    completed = certificate.model_copy(update={"service": known}).model_dump_json(indent=2).encode() + b"\n"
    path.write_bytes(completed)
    digests = sums(folder) | {CERTIFICATE: hashlib.sha256(completed).hexdigest()}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def sums(folder: Path) -> dict[str, str]:
    """`sha256sum`'s format: digest, two characters, name."""
    return {line[66:]: line[:64] for line in (folder / SUMS).read_text().splitlines()}
