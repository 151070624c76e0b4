"""One integration of one attempt, in a process of its own: whatever its library does, the worker
only loses a pipe.

Standard output carries one thing back: why it failed.
"""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable

from pydantic import TypeAdapter

from worker.trackers.protocol import Metrics, Outcome, Run, Tracker

MAX_REASON_LENGTH = 300
CONFIDENTIAL = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|URI|URL", re.IGNORECASE)
MIN_SECRET_LENGTH = 6

_later: TypeAdapter[Metrics | Outcome] = TypeAdapter(Metrics | Outcome)


def report(lines: Iterable[str]) -> None:
    lines = iter(lines)
    run = Run.model_validate_json(next(lines))
    module = importlib.import_module(f"worker.trackers.{run.type}")
    tracker: Tracker = getattr(module, f"{run.type.title()}Tracker")(run)
    for line in lines:
        match _later.validate_json(line):
            case Metrics() as message:
                tracker.log(message.step, message.values)
            case Outcome() as message:
                tracker.finish(message.outcome)
                return
    tracker.finish("stopped")  # the worker is gone


def reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package '{error.name}' is not installed on the worker"
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    for name, value in os.environ.items():
        if CONFIDENTIAL.search(name) and len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, "***")
    return text[:MAX_REASON_LENGTH]


def main() -> int:
    # The worker's end is UTF-8 in every locale.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print
    try:
        with lines:
            report(lines)
    except Exception as error:  # the edge of the process
        traceback.print_exc()
        with answer:
            answer.write(reason(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
