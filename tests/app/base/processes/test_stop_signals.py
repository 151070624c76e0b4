import signal
import subprocess
import sys

import pytest

from app.base.processes.stop_signals import STOP_SIGNALS

# The main thread holds the event's lock whenever it has just begun to wait.
SIGNALLED_WHILE_LOCKED = """
import signal, sys, threading
from app.base.processes.stop_signals import set_at_stop_signals
event = threading.Event()
set_at_stop_signals(event)
with event._cond:
    signal.raise_signal(int(sys.argv[1]))
assert event.wait(30)
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noticed_also_at_the_moment_the_wait_begins(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SIGNALLED_WHILE_LOCKED, str(int(number))]
    subprocess.run(command, check=True, timeout=60)
