"""One job a card: a lock for each card of this machine, whoever asks for it and from whatever
folder; for each slot of a CPU likewise. The name of a card's lock has the card's UUID, which is the
same in every container and after a card is split again; its number if the driver reports no UUID.

The kernel drops a lock when its holder dies. What is given up: containers have a folder each, and
do not see each other's locks.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from app.base.processes.nvidia import uuid_of

_UNSAFE = re.compile(r"[^A-Za-z0-9-]")


@contextmanager
def lock_cards(cards: Sequence[int], count: int, unit: str = "card") -> Iterator[tuple[int, ...]]:
    """Hold the first `count` of the cards (by index) that are free; fewer where fewer are
    free. `unit`: "slot" for those of a CPU.
    """
    with ExitStack() as stack:
        locked: list[int] = []
        for card in cards:
            if len(locked) == count:
                break
            with suppress(BlockingIOError):
                stack.enter_context(_lock(lock_path(card, unit)))
                locked.append(card)
        yield tuple(locked)


def lock_path(card: int, unit: str = "card") -> Path:
    uuid = uuid_of(card) if unit == "card" else None
    name = str(card) if uuid is None else _UNSAFE.sub("-", uuid)
    return Path(tempfile.gettempdir()) / f"falqon-{unit}-{name}.lock"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which another user may have made. Raises `BlockingIOError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
