"""The file that `falqon up` leaves in its data folder, so that commands beside it need no address
and no key.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from app.client.errors import NoConnection

CLIENT_FILE = "client.json"
OTHERS_PERMISSIONS = 0o077


@dataclass(frozen=True, slots=True)
class LocalService:
    base_url: str
    api_key: str


def data_dir() -> Path:
    return Path(os.environ.get("FALQON_DATA_DIR") or ".falqon")


def read(folder: Path) -> LocalService | None:
    """Return the address and key of this machine's service; None when there is none.

    A key that others could have read or planted is not used.
    """
    path = folder / CLIENT_FILE
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoConnection(f"{path} cannot be read: {error.strerror}.") from None
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS_PERMISSIONS:
        raise NoConnection(
            f"{path} can be read by others, so its key is not used.",
            f"chmod 600 {path}, and revoke the key if others did.",
        )
    try:
        return LocalService(**json.loads(content))
    except (ValueError, TypeError):
        raise NoConnection(
            f"{path} is damaged.", "Remove it; the next `falqon up` writes it again."
        ) from None


def write(folder: Path, service: LocalService) -> None:
    path = folder / CLIENT_FILE
    staged = folder / f".{CLIENT_FILE}.{os.getpid()}"
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(service), file)
    staged.replace(path)
