"""Of a file that went bad, only the blocks that did travel again."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.artifacts import schemas
from app.base.storage import hashing
from app.cli import app
from app.models import Artifact
from tests.downloads.scale import SCALE
from tests.support.api import Api, Tenant
from tests.support.proxy import Proxy

BLOCK = 4096  # small, so that many make a small file
CONTENT = os.urandom(BLOCK * 2 * SCALE.damaged_blocks + 100)


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "BLOCK_BYTES", BLOCK)
        patch.setattr(schemas, "BLOCK_BYTES", BLOCK)
        folder = tmp_path_factory.mktemp("api")
        api = Api(f"sqlite:///{folder / 'falqon.db'}", folder)
        tenant = Tenant(api)
        tenant.add_model("ours", project_id=tenant.project_id)
        tenant.store_artifacts("ours", {"weights": CONTENT})
        yield tenant
        tenant.http.close()
        api.stop()


@pytest.fixture
def proxy(tenant: Tenant) -> Iterator[Proxy]:
    with Proxy(int(tenant.api.url.rpartition(":")[2])) as proxy:
        yield proxy


def download(proxy: Proxy, key: str, folder: Path) -> list[tuple[int, int]]:
    """The ranges of the weights that travelled."""
    proxy.requests.clear()
    done = CliRunner().invoke(
        app,
        ["download", "ours", "--output", str(folder), "--base-url", proxy.url, "--api-key", key],
    )
    assert done.exit_code == 0, done.stderr
    assert (folder / "weights").read_bytes() == CONTENT
    ranges = [
        head["range"].removeprefix("bytes=").split("-")
        for head in proxy.heads("GET /v1/models/ours/artifacts/weights")
    ]
    return [(int(first), int(last) + 1) for first, last in ranges]


def test_damaged_blocks_are_repaired_alone(tenant: Tenant, proxy: Proxy, tmp_path: Path) -> None:
    target = tmp_path / "model" / "weights"
    target.parent.mkdir()
    chosen = sorted(random.Random(5).sample(range(len(CONTENT) // BLOCK + 1), SCALE.damaged_blocks))
    damaged = bytearray(CONTENT)
    for number in chosen:
        damaged[min(number * BLOCK + 50, len(CONTENT) - 1)] ^= 1
    target.write_bytes(damaged)
    expected = [(number * BLOCK, min(len(CONTENT), (number + 1) * BLOCK)) for number in chosen]
    assert download(proxy, tenant.key, target.parent) == expected
    assert download(proxy, tenant.key, target.parent) == []


def test_a_file_cut_short_keeps_its_whole_blocks(
    tenant: Tenant, proxy: Proxy, tmp_path: Path
) -> None:
    target = tmp_path / "model" / "weights"
    target.parent.mkdir()
    num_blocks = len(CONTENT) // BLOCK - 2
    target.write_bytes(CONTENT[: num_blocks * BLOCK + 10])
    assert download(proxy, tenant.key, target.parent)[0] == (
        num_blocks * BLOCK,
        (num_blocks + 1) * BLOCK,
    )


def test_a_part_goes_on_in_the_middle_of_a_block(
    tenant: Tenant, proxy: Proxy, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with tenant.api.database.read() as session:
        sha256 = session.get_one(Artifact, ("ours", "weights")).sha256
    have = len(CONTENT) - BLOCK // 2
    (folder / f".weights.{sha256[:12]}.part").write_bytes(CONTENT[:have])
    assert download(proxy, tenant.key, folder)[0][0] == have
