import os
import signal
from collections.abc import Iterator

import pytest

from falqon_core.train.signals import StopSignal


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_stop_request(number: signal.Signals) -> None:
    stopping = StopSignal(watch_parent=True)
    assert not stopping()
    os.kill(os.getpid(), number)
    assert stopping()


def test_a_second_interrupt_is_an_order_and_a_second_sigterm_is_not() -> None:
    stopping = StopSignal(watch_parent=False)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopping()
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
