import hashlib
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from falqon_core.contract.certificate import Certificate, Check
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, certificate
from tests.support.job_columns import cost
from worker.attempt.certificate import ExportDamaged, add_service_facts


def write(folder: Path, content: str) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "certificate.json").write_text(content)
    names = ("certificate.json", "model.safetensors")
    digests = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
    (folder / "SHA256SUMS").write_text(
        "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    )


def test_job_model_and_cost_are_added_and_the_sums_stay_right(tmp_path: Path) -> None:
    write(tmp_path, certificate().model_dump_json())
    add_service_facts(tmp_path, "ftjob-1", "ft:fake:acme::1", cost("0.0123"))
    content = Certificate.model_validate_json((tmp_path / "certificate.json").read_bytes())
    assert content.service is not None
    assert (content.service.job, content.service.model) == ("ftjob-1", "ft:fake:acme::1")
    assert content.service.cost is not None
    assert content.service.cost.accrued == Decimal("0.0123")
    assert content.model_copy(update={"service": None}) == certificate()
    assert (
        subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False
        ).returncode
        == 0
    )


FAILED = certificate().model_copy(
    update={"checks": [Check(name="loss", passed=False, detail="", difference=1.0, bound=0.1)]}
)


@pytest.mark.parametrize("content", ["", "{}", FAILED.model_dump_json()])
def test_a_model_that_nothing_proves_is_not_handed_out(content: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(ExportDamaged):
        add_service_facts(tmp_path, "ftjob-1", "ft:fake:acme::1", None)
    assert (tmp_path / "certificate.json").read_text() == content


def test_a_model_whose_certificate_was_changed_is_not_handed_out(tmp_path: Path) -> None:
    write(tmp_path, certificate().model_dump_json())
    (tmp_path / "certificate.json").write_text(certificate().model_dump_json(indent=1))
    with pytest.raises(ExportDamaged):
        add_service_facts(tmp_path, "ftjob-1", "ft:fake:acme::1", None)


def test_the_stored_certificate_names_its_job(backend: Backend) -> None:
    job_id = backend.add_job(FakeTrainer(steps=2))
    backend.supervisor().execute_next()
    model_id = backend.job(job_id).fine_tuned_model_id
    service = Certificate.model_validate_json(backend.artifact(job_id, "certificate.json")).service
    assert service is not None
    assert (service.job, service.model) == (job_id, model_id)
    assert service.cost is not None
