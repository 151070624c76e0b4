"""One object of the service into one local file: continued where it stopped, proved by its sha256, in place only when whole."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from app.client.api import Api
from app.client.errors import ClientError, Refused, Unavailable

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries that bring nothing at all; any byte begins them anew
SILENCE_SECONDS = 60.0
CONTENT_RANGE = re.compile(r"bytes (\d+)-")

Moved = Callable[[int], None]  # bytes that are there now; less than before where a part was given up


def fetch(api: Api, path: str, target: Path, *, size: int, sha256: str, moved: Moved) -> None:
    try:
        if target.is_file() and _digest(target) == sha256:
            moved(size)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{sha256[:12]}.part")
        continued = part.exists()
        _complete(api, path, part, size, sha256, moved)
        if continued and _digest(part) != sha256:  # the beginning may be what is wrong
            part.unlink()
            _complete(api, path, part, size, sha256, moved)
        if _digest(part) != sha256:
            part.unlink()
            raise Refused(f"{target} arrived damaged: its sha256 is not {sha256}.", "Nothing is kept of it; run the command again.")
        part.replace(target)
    except OSError as error:
        raise Refused(
            f"{target} cannot be written: {error.strerror}.", "Run the same command again; it goes on where it stopped."
        ) from None


def _complete(api: Api, path: str, part: Path, size: int, sha256: str, moved: Moved) -> None:
    failures = 0
    while (have := _size(part)) < size or not part.exists():
        try:
            _append(api, path, part, have, sha256, moved)
        except (httpx.TransportError, Unavailable) as error:
            failures = 0 if _size(part) > have else failures + 1
            if failures > len(PAUSES_SECONDS):
                raise _interrupted(api, error) from None
            time.sleep(PAUSES_SECONDS[max(0, failures - 1)])


def _append(api: Api, path: str, part: Path, have: int, sha256: str, moved: Moved) -> None:
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-", "if-range": f'"{sha256}"'} if have else {})
    with api.stream(path, headers=headers, silence_seconds=SILENCE_SECONDS) as response:
        goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
        if goes_on and not _starts_at(response, have):
            raise Refused(f"{response.url} sent another part than the one asked for.")
        with part.open("ab" if goes_on else "wb") as file:
            there = have if goes_on else 0
            moved(there)
            for chunk in response.iter_raw():
                file.write(chunk)
                there += len(chunk)
                moved(there)
            file.flush()
            os.fsync(file.fileno())


def _starts_at(response: httpx.Response, position: int) -> bool:
    match = CONTENT_RANGE.match(response.headers.get("content-range", ""))
    return match is not None and int(match[1]) == position


def _interrupted(api: Api, error: httpx.TransportError | Unavailable) -> ClientError:
    gone = error if isinstance(error, Unavailable) else api.unreachable(error)
    gone.hint = "Run the same command again; it goes on where it stopped."
    return gone


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
