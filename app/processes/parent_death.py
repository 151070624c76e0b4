"""Run a command that dies with the process that started it, even when that one is killed with SIGKILL.

It gains no rights that we do not have, and leaves no image of its memory, with data and keys in it, when it crashes.

`leashed(command)` is the command line to start instead of `command`: a tiny Python that asks the kernel for a signal at its
parent's death and then becomes `command`. A `preexec_fn` would do the same but may not run in a process with threads. The
kernel means the *thread* that started it, so start long-lived children from a thread that lives as long as they should.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def leashed(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def hold(parent: int) -> None:
    """Let this process end with `parent`, which has started it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def main(parent: int, command: list[str]) -> None:
    hold(parent)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
