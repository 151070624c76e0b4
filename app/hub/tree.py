"""Contents of a repository, in the words of Hugging Face's protocol: every file is one of its large
files, which are named by SHA-256.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from app.models import Model

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TreeEntry:
    path: str
    bytes: int
    sha256: str
    storage_key: str


@dataclass(frozen=True, slots=True)
class Repository:
    """Revision of a model, or an uploaded file."""

    id: str
    commit: str
    created_at: datetime
    is_private: bool
    entries: list[TreeEntry]
    model: Model | None = None  # None for a file


def commit_of(entries: Iterable[TreeEntry]) -> str:
    """Return an id that is the same for the same files, independently of their names."""
    listing = "".join(sorted(f"{entry.path}\0{entry.sha256}\n" for entry in entries))
    return hashlib.sha256(listing.encode()).hexdigest()[:40]


def info(repository: Repository) -> Json:
    moment = timestamp(repository.created_at)
    return {
        "_id": repository.commit[:24],
        "id": repository.id,
        "author": repository.id.partition("/")[0] if "/" in repository.id else None,
        "sha": repository.commit,
        "createdAt": moment,
        "lastModified": moment,
        "private": repository.is_private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(entry.bytes for entry in repository.entries),
        "siblings": [
            {
                "rfilename": entry.path,
                "size": entry.bytes,
                "blobId": _git_id(entry),
                "lfs": {"sha256": entry.sha256} | _large(entry),
            }
            for entry in repository.entries
        ],
    }


def list_folder(
    repository: Repository, folder: str, *, recursive: bool, expand: bool
) -> list[Json] | None:
    """List the files and folders below `folder`; None if there is no such folder."""
    inside = [entry for entry in repository.entries if folder in ("", *_folders(entry.path))]
    if not inside and folder:
        return None
    below = sorted(
        {
            parent
            for entry in inside
            for parent in _folders(entry.path)
            if folder in ("", *_folders(parent))
        }
    )
    entries = [_folder(repository, path, expand) for path in below]
    entries += [_file(repository, entry, expand) for entry in inside]
    if recursive:
        return entries
    return [
        entry for entry in entries if str(PurePosixPath(entry["path"]).parent) == (folder or ".")
    ]


def describe_paths(repository: Repository, paths: Sequence[str], *, expand: bool) -> list[Json]:
    """Describe the files and folders that exist."""
    folders = {folder for entry in repository.entries for folder in _folders(entry.path)}
    names = [path.strip("/") for path in paths]
    files = [
        _file(repository, entry, expand) for entry in repository.entries if entry.path in names
    ]
    return files + [_folder(repository, path, expand) for path in names if path in folders]


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _folders(path: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(path).parents if str(parent) != "."]


def _file(repository: Repository, entry: TreeEntry, expand: bool) -> Json:
    about = {
        "type": "file",
        "path": entry.path,
        "size": entry.bytes,
        "oid": _git_id(entry),
        "lfs": {"oid": entry.sha256} | _large(entry),
    }
    return about | (_last_commit(repository) if expand else {})


def _folder(repository: Repository, path: str, expand: bool) -> Json:
    inside = [entry for entry in repository.entries if path in _folders(entry.path)]
    return {"type": "directory", "path": path, "size": 0, "oid": commit_of(inside)} | (
        _last_commit(repository) if expand else {}
    )


def _last_commit(repository: Repository) -> Json:
    return {
        "lastCommit": {
            "id": repository.commit,
            "title": "Stored",
            "date": timestamp(repository.created_at),
        }
    }


def _large(entry: TreeEntry) -> Json:
    return {"size": entry.bytes, "pointerSize": len(_pointer(entry))}


def _git_id(entry: TreeEntry) -> str:
    pointer = _pointer(entry)
    return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()


def _pointer(entry: TreeEntry) -> bytes:
    """Return the pointer that git would hold in place of the file."""
    version = "version https://git-lfs.github.com/spec/v1"
    return f"{version}\noid sha256:{entry.sha256}\nsize {entry.bytes}\n".encode()
