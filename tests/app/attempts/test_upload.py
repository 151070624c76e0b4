from itertools import count

import pytest

from app.attempts.upload import BYTES_PER_SECOND, GRACE_SECONDS, watch
from app.base.errors import UploadTooSlow


def test_an_upload_below_the_minimum_rate_ends_after_the_grace_period() -> None:
    slow = [b"a"] * 1000
    moments = (10.0 * number for number in count())
    arrived: list[bytes] = []
    with pytest.raises(UploadTooSlow):
        arrived.extend(watch(slow, lambda: None, lambda: next(moments)))
    assert len(arrived) <= GRACE_SECONDS / 10


def test_an_upload_at_the_minimum_rate_goes_on_and_is_checked_meanwhile() -> None:
    second = b"a" * BYTES_PER_SECOND
    moments = iter(range(1000))
    checks: list[None] = []
    arrived = list(watch([second] * 300, lambda: checks.append(None), lambda: next(moments)))
    assert len(arrived) == 300
    assert 40 < len(checks) <= 60
