"""SHA256SUMS: one line a file, as `sha256sum -c SHA256SUMS` reads it."""

import hashlib
from pathlib import Path

from falqon_core.contract.certificate import CERTIFICATE, FileHash
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.files import write_whole


def write_sha256sums(folder: Path) -> None:
    """Hash every file under `folder` except hidden ones and SHA256SUMS itself; sorted by path, so
    equal folders give equal bytes.
    """
    write_whole(folder / SHA256SUMS, sha256_lines(folder))


def sha256_lines(folder: Path) -> str:
    """Return the text of SHA256SUMS: a line for each file."""
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in file_names(folder))


def hash_files(folder: Path) -> list[FileHash]:
    """Hash every file that has a line, but the certificate itself."""
    return [
        FileHash(name=name, bytes=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
        for name in file_names(folder)
        if name != CERTIFICATE
    ]


def file_names(folder: Path) -> list[str]:
    """List the files that have a line, sorted."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.name != SHA256SUMS and not any(part.startswith(".") for part in path.parts)
    )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
