"""Bytes of an upload as they arrive: for a limited time, and only while the job is held."""

import time
from collections.abc import Callable, Iterable, Iterator

from app.base.errors import UploadTooSlow

LOOK_SECONDS = 5.0
GRACE_SECONDS = 60.0
BYTES_PER_SECOND = 32 * 2**10  # minimum rate over the whole upload; a line of 256 kbit/s


def watch(
    chunks: Iterable[bytes],
    check: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """Pass chunks on. Raise `UploadTooSlow` when they come too slowly, and let errors of `check`,
    which is called now and then, propagate.
    """
    begin = looked_at = clock()
    num_bytes = 0
    for chunk in chunks:
        num_bytes += len(chunk)
        now = clock()
        if now - begin > GRACE_SECONDS + num_bytes / BYTES_PER_SECOND:
            raise UploadTooSlow
        if now - looked_at > LOOK_SECONDS:
            check()
            looked_at = now
        yield chunk
