"""The bytes of an upload as they come: not for ever, and not for a job that is lost."""

import time
from collections.abc import Callable, Iterable, Iterator

from app.base.errors import UploadTooSlow

LOOK_SECONDS = 5.0
GRACE_SECONDS = 60.0
BYTES_PER_SECOND = 32 * 2**10  # at least, over the whole upload; a line of 256 kbit/s


def watch(
    chunks: Iterable[bytes],
    check: Callable[[], object],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """Pass chunks on. Raise `UploadTooSlow` where they come too slowly, and what `check` raises,
    which is called now and then.
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
