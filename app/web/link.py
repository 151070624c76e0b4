"""The link that `falqon up` prints. A file in the data folder says which key it opens; whoever uses
it takes the file away.
"""

import hashlib
import json
import os
import secrets
import time
from hmac import compare_digest
from pathlib import Path

NAME = "sign_in_link.json"
VALID_SECONDS = 3600.0


def issue(folder: Path, key_id: str) -> str:
    """Return the token of a new link; the one before opens nothing any more."""
    token = secrets.token_urlsafe(24)
    path = folder / NAME
    staged = folder / f".{NAME}.{os.getpid()}"
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"digest": _digest(token), "key_id": key_id}, file)
    staged.replace(path)
    return token


def redeem(folder: Path, token: str) -> str | None:
    """Return the id of the API key it stands for, once."""
    path = folder / NAME
    try:
        issued = json.loads(path.read_text())
        written_at = path.stat().st_mtime
        if not compare_digest(issued["digest"], _digest(token)):
            return None
        path.unlink()  # of two that come at once, one finds it gone
    except (FileNotFoundError, ValueError):
        return None
    if time.time() - written_at < VALID_SECONDS:
        return str(issued["key_id"])
    return None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
