import hashlib
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from falqon_core.contract.certificate import Certificate, Check
from tests.support.house import House
from tests.support.toy_trainer import Toy, certificate
from worker.attempt.certificate import ExportDamaged, complete

COST = {
    "currency": "usd", "usd_per_device_hour": "0.0400", "price_source": "built in", "accrued": "0.0123", "projected": "0.0123",
    "projected_low": None, "projected_high": None,
}  # fmt: skip


def write(folder: Path, content: str) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "certificate.json").write_text(content)
    names = ("certificate.json", "model.safetensors")
    digests = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True)))


def test_job_model_and_cost_are_added_and_the_sums_stay_right(tmp_path: Path) -> None:
    write(tmp_path, certificate().model_dump_json())
    complete(tmp_path, "ftjob-1", "ft:toy:acme::1", COST)
    found = Certificate.model_validate_json((tmp_path / "certificate.json").read_bytes())
    assert found.service is not None
    assert (found.service.job, found.service.model) == ("ftjob-1", "ft:toy:acme::1")
    assert found.service.cost is not None
    assert found.service.cost.accrued == Decimal("0.0123")
    assert found.model_copy(update={"service": None}) == certificate()
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False).returncode == 0


FAILED = certificate().model_copy(update={"checks": [Check(name="loss", passed=False, detail="", difference=1.0, bound=0.1)]})


@pytest.mark.parametrize("content", ["", "{}", FAILED.model_dump_json()])
def test_a_model_that_nothing_proves_is_not_handed_out(content: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(ExportDamaged):
        complete(tmp_path, "ftjob-1", "ft:toy:acme::1", None)
    assert (tmp_path / "certificate.json").read_text() == content


def test_nor_is_one_whose_certificate_was_changed(tmp_path: Path) -> None:
    write(tmp_path, certificate().model_dump_json())
    (tmp_path / "certificate.json").write_text(certificate().model_dump_json(indent=1))
    with pytest.raises(ExportDamaged):
        complete(tmp_path, "ftjob-1", "ft:toy:acme::1", None)


def test_what_is_stored_knows_its_job(house: House) -> None:
    job_id = house.add_job(Toy(steps=2))
    house.supervisor().execute_next()
    model_id = house.job(job_id).fine_tuned_model_id
    service = Certificate.model_validate_json(house.artifact(job_id, "certificate.json")).service
    assert service is not None
    assert (service.job, service.model) == (job_id, model_id)
    assert service.cost is not None
