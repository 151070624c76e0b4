"""Bytes of an upload as they arrive: for a limited time, and only while the job is held."""

import time
from collections.abc import Callable, Iterable, Iterator

from app.base.errors import UploadTooSlow

CHECK_INTERVAL_SECONDS = 5.0
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
    begin = checked_at = clock()
    num_bytes = 0
    for chunk in chunks:
        num_bytes += len(chunk)
        now = clock()
        if now - begin > GRACE_SECONDS + num_bytes / BYTES_PER_SECOND:
            raise UploadTooSlow
        if now - checked_at > CHECK_INTERVAL_SECONDS:
            check()
            checked_at = now
        yield chunk
