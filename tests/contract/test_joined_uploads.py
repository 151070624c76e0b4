"""What a worker that sees only the API writes goes to the object store by links, and counts only
where it stands there as it should.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from app.attempts.service import MAX_SIGNED_BYTES
from app.attempts.values import SavedCheckpoint
from app.base.storage import keys
from app.base.storage.reach import KeyTaken
from falqon_core.contract.layout import MANIFEST
from falqon_core.contract.messages import CheckpointSaved
from tests.contract.test_joined_workers import OFFER, claim_of, token_for
from tests.support.api import Api, Tenant
from tests.support.object_store import ObjectStore
from worker.gateway import ServiceRefused
from worker.joined.gateway import JoinedGateway


@pytest.fixture
def tenant(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    url = f"sqlite:///{tmp_path / 'falqon.db'}"
    api = Api(url, tmp_path, storage_url=f"{store.url}/{tmp_path.name}")
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def test_a_checkpoint_goes_to_the_store_and_counts_once_it_is_whole(
    tenant: Tenant, store: ObjectStore, tmp_path: Path
) -> None:
    state, manifest = tmp_path / "state.bin", tmp_path / MANIFEST
    state.write_bytes(b"weights")
    digest = sha256(b"weights").hexdigest()
    manifest.write_text(json.dumps({"files": {"state.bin": {"bytes": 7, "sha256": digest}}}))
    saved = CheckpointSaved(
        step=3,
        path="",
        bytes=7,
        manifest_sha256=sha256(manifest.read_bytes()).hexdigest(),
        metrics={},
    )
    stored = SavedCheckpoint(id="ftckpt_1", saved=saved, keep=2)
    job_id = tenant.job().id
    with closing(JoinedGateway(tenant.api.url, token_for(tenant)[1], "machine")) as gateway:
        claimed = gateway.claim(OFFER)
        claim = claim_of(gateway, claimed)
        assert claimed is not None
        storage = gateway.storage_of(claim)
        prefix = keys.checkpoint_prefix(tenant.project_id, job_id, claim.attempt, 3)
        links = f"/jobs/{job_id}/attempts/{claim.attempt}/links"

        storage.put_file(f"{prefix}/{MANIFEST}", manifest)
        with pytest.raises(ServiceRefused, match="its manifest names"):
            gateway.add_checkpoint(claimed.job, claim, stored)
        assert storage.put_file(f"{prefix}/state.bin", state) == (7, digest, [digest])
        assert storage.put_file(f"{prefix}/state.bin", state).bytes == 7  # the answer was lost
        assert gateway.add_checkpoint(claimed.job, claim, stored) is not None
        state.write_bytes(b"changed")
        with pytest.raises(KeyTaken, match=r"state.bin already"):
            storage.put_file(f"{prefix}/state.bin", state)

        too_large = {"key": f"{prefix}/large", "bytes": MAX_SIGNED_BYTES + 1}
        assert gateway.http.post(links, json=too_large).json() == {"url": None}
    assert tenant.api.storage.read(f"{prefix}/state.bin") == b"weights"
    put = [line for line in store.requests() if line.startswith("PUT") and prefix in line]
    by_link = ["X-Amz-Signature=" in line for line in put]
    # What stands there already comes through the API, which compares it.
    assert by_link == [True, True, True, False, True, False]
