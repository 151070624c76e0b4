"""Facts that only the service knows, added to the certificate of a model before it is read."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from app.models.job_progress import JobCost
from falqon_core.contract.certificate import CERTIFICATE, AccruedCost, Certificate, Service
from falqon_core.contract.layout import SHA256SUMS


class ExportDamaged(Exception):
    """The exported files are not what their own list says."""


def add_service_facts(folder: Path, job_id: str, model_id: str, cost: JobCost | None) -> None:
    """Complete the certificate in `folder`. Raises `ExportDamaged` for a folder that nothing
    proves.
    """
    path = folder / CERTIFICATE
    try:
        content = path.read_bytes()
        certificate = Certificate.model_validate_json(content)
    except (FileNotFoundError, ValidationError) as error:
        raise ExportDamaged(f"{CERTIFICATE} is missing or unreadable") from error
    if certificate.failed or sums(folder).get(CERTIFICATE) != hashlib.sha256(content).hexdigest():
        raise ExportDamaged(f"{CERTIFICATE} proves nothing")
    service = Service(
        job=job_id,
        model=model_id,
        cost=AccruedCost(**cost.model_dump(include=set(AccruedCost.model_fields)))
        if cost
        else None,
    )
    completed = (
        certificate.model_copy(update={"service": service}).model_dump_json(indent=2).encode()
        + b"\n"
    )
    path.write_bytes(completed)
    digests = sums(folder) | {CERTIFICATE: hashlib.sha256(completed).hexdigest()}
    (folder / SHA256SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in digests.items()), encoding="utf-8"
    )


def sums(folder: Path) -> dict[str, str]:
    """`sha256sum`'s format: digest, two characters, name."""
    lines = (folder / SHA256SUMS).read_text(encoding="utf-8").splitlines()
    return {line[66:]: line[:64] for line in lines}
