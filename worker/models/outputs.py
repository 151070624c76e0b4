"""The files that a trainer has left in a folder."""

from pathlib import Path


def files_of(folder: Path) -> list[Path]:
    """Return every file below. Raises `OSError` for a link: what it leads to would be handed out
    with them.
    """
    paths = [folder, *sorted(folder.rglob("*"))]
    if link := next((path for path in paths if path.is_symlink()), None):
        raise OSError(f"{link.name} is a link")
    return [path for path in paths if path.is_file()]
