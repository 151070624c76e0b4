from pathlib import Path


def private_folder(path: Path) -> Path:
    """`path`, made if need be, as every missing parent, for this user alone. What is there keeps
    its rights.
    """
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path
