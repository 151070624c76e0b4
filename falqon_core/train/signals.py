"""Requests to stop before the end: a signal, or the end of the process that started this one.

SIGTERM and the first SIGINT only set a flag, which the loop reads between steps; a second SIGINT
ends the process at once. Imports nothing heavy, so that the handlers stand before torch is loaded.
"""

import ctypes
import os
import signal
import sys
from types import FrameType

from falqon_core.contract.messages import ExitCode

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


class StoppedBeforeFirstStep(Exception):
    """The training is to stop before its first step; there is no checkpoint yet."""


class StopSignal:
    """The stop request of this process, called before every step."""

    def __init__(self, watch_parent: bool) -> None:
        """Install the handlers. `watch_parent`: end at once when the parent process changes (it
        died).
        """
        self._requested = False
        self._parent = os.getppid() if watch_parent else None
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def __call__(self) -> bool:
        """Return True once a stop was requested; called once a step. An orphan ends at once, since
        its further writes would have no owner.
        """
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(ExitCode.STOPPED)
        return self._requested

    def _request(self, number: int, _: FrameType | None) -> None:
        self._requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
