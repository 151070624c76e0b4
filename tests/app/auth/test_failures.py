import time

from app.auth import failures
from app.auth.failures import Failures
from tests.support.waiting import wait_for

HOME = "203.0.113.7"


def fail(counted: Failures, address: str, times: int) -> None:
    for _ in range(times):
        assert counted.wait_seconds(address, "wrong") == 0
        counted.record_failure(address)


def test_an_address_waits_after_a_few_failures_and_other_addresses_do_not() -> None:
    counted = Failures(10)
    fail(counted, HOME, 10)
    assert 0 < counted.wait_seconds(HOME, "wrong") <= 6
    assert counted.wait_seconds("203.0.113.8", "wrong") == 0


def test_waiting_helps() -> None:
    counted = Failures(60)
    fail(counted, HOME, 60)
    assert 0 < counted.wait_seconds(HOME, "wrong") <= 1
    wait_for(lambda: counted.wait_seconds(HOME, "wrong") == 0, what="one more try")
    counted.record_failure(HOME)
    assert counted.wait_seconds(HOME, "wrong") > 0


def test_a_key_that_opened_the_door_before_still_does() -> None:
    counted = Failures(1)
    counted.record_success("right")
    fail(counted, HOME, 1)
    assert counted.wait_seconds(HOME, "right") == 0
    assert counted.wait_seconds(HOME, "other") > 0


def test_a_network_is_one_address_in_version_6_and_a_mapped_one_is_version_4() -> None:
    counted = Failures(1)
    fail(counted, "2001:db8:1:2::1", 1)
    assert counted.wait_seconds("2001:db8:1:2:ffff::9%eth0", "wrong") > 0
    assert counted.wait_seconds("2001:db8:1:3::1", "wrong") == 0
    fail(counted, "::ffff:203.0.113.7", 1)
    assert counted.wait_seconds(HOME, "wrong") > 0
    fail(counted, "", 1)  # a Unix socket


def test_memory_is_bounded() -> None:
    counted = Failures(10)
    started = time.monotonic()
    for number in range(failures.MAX_ADDRESSES + 500):
        counted.record_failure(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        counted.record_success(str(number))
    assert (len(counted._full_at), len(counted._known)) == (
        failures.MAX_ADDRESSES,
        failures.MAX_KNOWN_KEYS,
    )
    assert time.monotonic() - started < 30
