"""From storage to this machine, verified by sha256. `check` is called between files and may raise
to give up.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from app.base.storage import keys
from app.models import Artifact, Checkpoint
from falqon_core.contract.layout import MANIFEST
from falqon_core.fault_points import fault
from worker.gateway import ObjectStore


class BytesDiffer(Exception):
    """The bytes in the storage are not those that the database says were stored."""


class ObjectMissing(BytesDiffer):
    """The bytes that the database names are not in the storage, which does answer."""


def fetch(storage: ObjectStore, key: str, path: Path, sha256: str) -> None:
    fault("during_staging")
    try:
        stored = storage.fetch(key, path)
    except FileNotFoundError as error:
        storage.probe()  # A missing bucket says nothing about one object.
        raise ObjectMissing(f"{key} is not in the storage") from error
    if stored.sha256 != sha256:
        raise BytesDiffer(f"{key} is not what was stored")


def fetch_artifacts(
    storage: ObjectStore, artifacts: Iterable[Artifact], folder: Path, check: Callable[[], None]
) -> None:
    for artifact in artifacts:
        check()
        fetch(storage, artifact.storage_key, folder / keys.relative(artifact.name), artifact.sha256)


def fetch_checkpoint(
    storage: ObjectStore, checkpoint: Checkpoint, target: Path, check: Callable[[], None]
) -> None:
    fetch(
        storage,
        f"{checkpoint.storage_prefix}/{MANIFEST}",
        target / MANIFEST,
        checkpoint.manifest_sha256,
    )
    for name, entry in json.loads((target / MANIFEST).read_bytes())["files"].items():
        check()
        fetch(
            storage,
            f"{checkpoint.storage_prefix}/{name}",
            target / keys.relative(name),
            entry["sha256"],
        )
