"""SHA256SUMS: one line a file, as `sha256sum -c SHA256SUMS` reads it."""

import hashlib
from pathlib import Path

from falqon_core.files import write_whole

NAME = "SHA256SUMS"


def write_sha256sums(folder: Path) -> None:
    """Hash every file under `folder` except hidden ones and SHA256SUMS itself; sorted by path, so equal folders give equal bytes."""
    write_whole(folder / NAME, sha256_lines(folder))


def sha256_lines(folder: Path) -> str:
    """What `write_sha256sums` writes."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in file_names(folder))


def file_names(folder: Path) -> list[str]:
    """Of all files that have a line, sorted."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.name != NAME and not any(part.startswith(".") for part in path.parts))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
