import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from falqon_core import fault_points
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import (
    CheckpointCorrupt,
    CheckpointOfOtherVersion,
    ModelError,
    as_falqon_error,
)
from falqon_core.fault_points import InjectedFault
from falqon_core.train.checkpoint import (
    Progress,
    TrainingState,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from falqon_core.train.exporter import choose_checkpoint


def checkpoint(step: int) -> TrainingState:
    progress = Progress(
        recipe=Recipe().resolved(5),
        num_records=5,
        num_tokens=50,
        num_threads=1,
        step=step,
        loader={"epoch": 0, "step": step},
    )
    method = {
        "layer.delta": torch.full((3, 2), float(step)),
        "layer.a": torch.ones(2, 4).to(torch.float8_e4m3fn),
    }
    return TrainingState(progress, method, {"layer.delta.step": torch.tensor(float(step))})


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_a_checkpoint_loads_unchanged_and_its_manifest_holds_every_hash(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, checkpoint(7), keep=2)
    loaded = newest_checkpoint(tmp_path, pytest.fail)
    assert loaded is not None
    assert loaded.progress == checkpoint(7).progress
    assert torch.equal(loaded.method["layer.delta"], torch.full((3, 2), 7.0))
    assert loaded.method["layer.a"].dtype == torch.float8_e4m3fn
    assert loaded.optimizer["layer.delta.step"] == 7

    manifest = (saved.path / "manifest.json").read_bytes()
    assert saved.manifest_sha256 == hashlib.sha256(manifest).hexdigest()
    assert saved.num_bytes == sum(path.stat().st_size for path in saved.path.iterdir())
    files = json.loads(manifest)["files"]
    assert set(files) == {"method.safetensors", "optimizer.safetensors", "progress.json"}
    for name, entry in files.items():
        assert entry["sha256"] == hashlib.sha256((saved.path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("action", ["enospc", "raise"])
def test_a_checkpoint_that_cannot_be_written_leaves_only_the_previous_one(
    tmp_path: Path, action: str
) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    fault_points.arm(f"checkpoint_write={action}", str(tmp_path / "marks"))
    with pytest.raises((OSError, InjectedFault)) as failed:
        save_checkpoint(tmp_path, checkpoint(2), keep=2)
    assert (
        as_falqon_error(failed.value).code
        == {"enospc": "disk_full", "raise": "internal_error"}[action]
    )
    assert (tmp_path / "marks" / "checkpoint_write").exists()
    assert names(tmp_path) == ["1"]
    loaded = newest_checkpoint(tmp_path, pytest.fail)
    assert loaded is not None
    assert loaded.progress.step == 1
    fault_points.arm("")


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os "
        "error 28)",
    ],
)
def test_libraries_say_in_words_that_a_disk_is_full(text: str) -> None:
    assert as_falqon_error(OSError(text)).code == "disk_full"
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = SafetensorError(text)
    assert as_falqon_error(wrapped).code == "disk_full"


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert names(tmp_path) == ["10", "100"]


def test_the_best_is_kept_until_another_is_better(tmp_path: Path) -> None:
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
        saved = checkpoint(step)
        saved.progress.best_step = best
        save_checkpoint(tmp_path, saved, keep=2)
        assert names(tmp_path)[-1] == str(step)
        if step == 4:
            assert names(tmp_path) == ["2", "3", "4"]
    assert names(tmp_path) == ["5", "6"]


@pytest.mark.parametrize(
    "name", ["method.safetensors", "optimizer.safetensors", "progress.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(
    name: str, damage: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    path = save_checkpoint(tmp_path, checkpoint(2), keep=2).path / name
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(CheckpointCorrupt):
        load_checkpoint(path.parent)
    warnings: list[str] = []
    loaded = newest_checkpoint(tmp_path, warnings.append)
    assert loaded is not None
    assert loaded.progress.step == 1
    assert len(warnings) == 1
    assert "checkpoint 2 is corrupt" in warnings[0]
    assert names(tmp_path) == ["1"]  # or pruning would keep the broken one and drop the good one


def test_a_checkpoint_of_another_version_is_refused_by_name_and_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save_checkpoint(tmp_path, checkpoint(step), keep=2).path
    progress = path / "progress.json"
    progress.write_text(progress.read_text().replace('"step":2', '"step":2,"momentum":0', 1))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][progress.name]["sha256"] = hashlib.sha256(progress.read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointOfOtherVersion, match=r"another version.*momentum"):
        newest_checkpoint(tmp_path, pytest.fail)
    assert names(tmp_path) == ["1", "2"]


def test_a_checkpoint_that_cannot_be_read_now_is_kept(tmp_path: Path) -> None:
    """A link that goes round in circles stands for a disk that fails for a moment."""
    for step in (1, 2):
        path = save_checkpoint(tmp_path, checkpoint(step), keep=2).path / "method.safetensors"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(OSError, match="symbolic links"):
        newest_checkpoint(tmp_path, pytest.fail)
    assert names(tmp_path) == ["1", "2"]


def test_leftovers_of_a_crash_do_not_count_and_are_swept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / ".2.abc")
    (tmp_path / "checkpoints" / ".nfs0001").touch()  # whose name a file system has chosen
    loaded = newest_checkpoint(tmp_path, pytest.fail)
    assert loaded is not None
    assert loaded.progress.step == 1
    assert names(tmp_path) == [".nfs0001", "1"]


def test_a_reader_of_checkpoints_removes_nothing(tmp_path: Path) -> None:
    """Neither what a training is writing just now, nor what is damaged."""
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    (save_checkpoint(tmp_path, checkpoint(2), keep=2).path / "progress.json").write_text("{}")
    (tmp_path / "checkpoints" / ".3.abc").mkdir()
    _, chosen = choose_checkpoint(tmp_path, None)
    assert chosen.progress.step == 1
    assert names(tmp_path) == [".3.abc", "1", "2"]
    with pytest.raises(ModelError, match="no checkpoint of step 7"):
        choose_checkpoint(tmp_path, 7)


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none", pytest.fail) is None
