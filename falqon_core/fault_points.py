"""Named places at which a test makes this process fail, to see the state that it leaves. Not armed,
one costs a look-up in an empty dict.

`FAULT_POINTS` arms them: `after_claim_commit=exit checkpoint_write=enospc*3`. A fault fires at the
first passage, `*3` at the third, `*` at every one. Its actions: `exit` (137, as a SIGKILL leaves
it), `stop` (SIGSTOP; the test has to send SIGCONT), `enospc` (the disk is full), `raise` (a fault
of ours). `FAULT_MARKS` names a folder, in which each firing leaves a line in a file of the point's
name: a test whose fault never fired has tested nothing. A mark that is there also keeps a fault
that fires once from firing again in the process that takes over. What is given up: points in the
trainer of a job see only what the worker's environment holds.
"""

import errno
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ARMING_PATTERN = re.compile(r"(?P<point>\w+)=(?P<action>\w+)(?P<when>\*(?P<passage>[1-9][0-9]*)?)?")


class InjectedFault(Exception):
    """An error that no code expects."""


class _Armed:
    def __init__(self, action: str, passage: int, always: bool) -> None:
        self.action = action
        self.passage = passage
        self.always = always
        self.passages = 0


@dataclass(frozen=True)
class Arming:
    """The armed points, and the folder of marks."""

    points: dict[str, _Armed]
    marks: Path | None


def _exit() -> None:
    os._exit(128 + signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _raise() -> None:
    raise InjectedFault


ACTIONS: dict[str, Callable[[], None]] = {
    "exit": _exit,
    "stop": _stop,
    "enospc": _no_space,
    "raise": _raise,
}


def parse_arming(text: str, marks: str) -> Arming:
    """Read the arming. Raises `ValueError` for what cannot be understood: a fault that is misspelt
    must not pass for one that is survived.
    """
    points = {}
    for word in text.split():
        match = ARMING_PATTERN.fullmatch(word)
        if match is None or match["action"] not in ACTIONS:
            raise ValueError(
                f"FAULT_POINTS: '{word}' is not point=action, with one of {', '.join(ACTIONS)}"
            )
        points[match["point"]] = _Armed(
            match["action"], int(match["passage"] or 1), always=match["when"] == "*"
        )
    return Arming(points, Path(marks) if marks else None)


_arming = parse_arming(os.environ.get("FAULT_POINTS", ""), os.environ.get("FAULT_MARKS", ""))


def arm(text: str, marks: str = "") -> None:
    """Arm the points of this process, in place of those in the environment."""
    global _arming
    _arming = parse_arming(text, marks)


def fault(point: str) -> None:
    """Fail here, where this point is armed and its passage has come."""
    if _arming.points and (armed := _arming.points.get(point)) is not None:
        _pass(point, armed, _arming.marks)


def _pass(point: str, armed: _Armed, marks: Path | None) -> None:
    armed.passages += 1
    if not armed.always and (
        armed.passages != armed.passage or (marks is not None and (marks / point).exists())
    ):
        return
    if marks is not None:
        marks.mkdir(parents=True, exist_ok=True)
        with (marks / point).open("a") as file:
            file.write(f"{armed.action} {os.getpid()}\n")
    ACTIONS[armed.action]()
