"""Secret of the whole service: it signs the dashboard's cookie, and the secrets of webhooks are
derived from it.
"""

import os
import secrets
from pathlib import Path

from app.base.private_dir import private_folder
from app.base.settings import Settings


def server_secret(settings: Settings) -> str:
    if settings.session_secret is not None:
        return settings.session_secret.get_secret_value()
    path = settings.data_dir / "session_secret"
    private_folder(path.parent)
    return _read(path) if path.exists() else _create(path)


def _create(path: Path) -> str:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(32))
    try:
        os.link(draft, path)  # fails if another process was quicker; its secret then counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return _read(path)


def _read(path: Path) -> str:
    return path.read_text().strip()
