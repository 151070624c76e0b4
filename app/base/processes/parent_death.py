"""Start of a command that dies with its parent process, even when that one is killed with SIGKILL.

It gains no additional rights, and its crash leaves no core dump, which would contain data and keys.

A small Python process requests a signal from the kernel at its parent's death and then becomes the
command. A `preexec_fn` would do the same but may not run in a process with threads. The kernel
watches the *thread* that started it, so start long-lived children from a thread that lives as long
as they should.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def command_dying_with_parent(command: Sequence[str]) -> list[str]:
    """Return the command line to start instead of `command`."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def die_with_parent(parent: int) -> None:
    """Let this process end with `parent`, which has started it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal_at_death_of_parent(signal.SIGKILL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request
            os._exit(1)


def signal_at_death_of_parent(number: int) -> None:
    """Have the kernel send this process a signal when the one that started it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def main(parent: int, command: list[str]) -> None:
    die_with_parent(parent)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
