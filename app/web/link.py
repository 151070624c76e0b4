"""The link that `falqon up` prints. A file in the data folder says which key it opens; its use
deletes the file.
"""

import hashlib
import json
import os
import secrets
import time
from hmac import compare_digest
from pathlib import Path

LINK_FILE = "sign_in_link.json"
VALID_SECONDS = 3600.0


def issue(folder: Path, key_id: str) -> str:
    """Return the token of a new link; the one before opens nothing any more."""
    token = secrets.token_urlsafe(24)
    path = folder / LINK_FILE
    staged = folder / f".{LINK_FILE}.{os.getpid()}"
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"digest": _digest(token), "key_id": key_id}, file)
    staged.replace(path)
    return token


def redeem(folder: Path, token: str) -> str | None:
    """Return the id of the API key it stands for, once."""
    path = folder / LINK_FILE
    try:
        issued = json.loads(path.read_text())
        written_at = path.stat().st_mtime
        if not compare_digest(issued["digest"], _digest(token)):
            return None
        path.unlink()  # Another request may have used it.
    except (FileNotFoundError, ValueError):
        return None
    if time.time() - written_at < VALID_SECONDS:
        return str(issued["key_id"])
    return None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
