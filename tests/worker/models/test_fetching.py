import hashlib
import json
from pathlib import Path

import pytest

from app.base.storage import Storage
from app.models import Checkpoint
from falqon_core.contract.layout import MANIFEST
from tests.support.traversal import NAMES
from worker.models.fetching import BytesDiffer, fetch_checkpoint
from worker.models.outputs import files_of


def stored_checkpoint(storage: Storage, name: str) -> Checkpoint:
    """Whose manifest names a file `name`."""
    manifest = json.dumps(
        {"files": {name: {"sha256": hashlib.sha256(b"evil").hexdigest()}}}
    ).encode()
    storage.delete(f"checkpoint/{MANIFEST}")
    return Checkpoint(
        storage_prefix="checkpoint",
        manifest_sha256=storage.put(f"checkpoint/{MANIFEST}", [manifest]).sha256,
    )


def test_a_manifest_does_not_choose_where_its_files_land(tmp_path: Path) -> None:
    storage = Storage((tmp_path / "objects").as_uri())
    target = tmp_path / "work" / "checkpoint"
    for name in NAMES:
        checkpoint = stored_checkpoint(storage, name)
        with pytest.raises((ValueError, BytesDiffer, FileNotFoundError)):
            fetch_checkpoint(storage, checkpoint, target, lambda: None)
    outside = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_relative_to(tmp_path / "objects")
    ]
    assert all(path.resolve().is_relative_to(target) for path in outside)


@pytest.mark.parametrize("place", [".", "sub"])
def test_a_link_that_a_trainer_left_is_not_handed_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "config.json").write_text("{}")
    assert files_of(folder) == [folder / "sub" / "config.json"]
    (folder / place / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="is a link"):
        files_of(folder)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "there")
    with pytest.raises(OSError, match="is a link"):
        files_of(tmp_path / "model")
