"""All files of a model as one tar, produced during the download: its length is known before its
first byte, and nothing is stored.
"""

import tarfile
from collections.abc import Iterator, Sequence

from app.base.storage import Storage
from app.models import Artifact

END_OF_ARCHIVE = bytes(tarfile.RECORDSIZE)


def length(folder: str, artifacts: Sequence[Artifact]) -> int:
    lengths = (
        len(_header(folder, artifact)) + artifact.bytes + _compute_padding(artifact)
        for artifact in artifacts
    )
    return sum(lengths) + len(END_OF_ARCHIVE)


def stream(storage: Storage, folder: str, artifacts: Sequence[Artifact]) -> Iterator[bytes]:
    for artifact in artifacts:
        yield _header(folder, artifact)
        yield from storage.chunks(artifact.storage_key)
        yield bytes(_compute_padding(artifact))
    yield END_OF_ARCHIVE


def _header(folder: str, artifact: Artifact) -> bytes:
    entry = tarfile.TarInfo(f"{folder}/{artifact.name}")
    entry.size = artifact.bytes
    entry.mtime = int(artifact.created_at.timestamp())
    return entry.tobuf(tarfile.PAX_FORMAT)


def _compute_padding(artifact: Artifact) -> int:
    return -artifact.bytes % tarfile.BLOCKSIZE
