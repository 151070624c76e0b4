"""`make fuzz`: so many requests, over both databases and every role, and a table of what came back.
Ends with 1 where something failed.
"""

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.run import ROLES, fuzz
from tests.fuzz.server import fuzzed_api
from tests.support.postgres import PostgresServer
from tests.support.receiver import receiving

EXAMPLES = 60  # of each operation and phase in one run
MAX_LINE = 2000  # schemathesis shows how to repeat a request, however long it was


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()

    answers: defaultdict[str, Counter[int]] = defaultdict(Counter)
    failures: list[dict[str, Any]] = []
    seed = options.seed
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        url = stack.enter_context(receiving()).url
        postgres = PostgresServer(folder / "postgres")
        stack.callback(postgres.stop, signal.SIGQUIT)
        while _total(answers) < options.requests:
            for (name, role), database in itertools.product(ROLES.items(), ("sqlite", "postgres")):
                # Each run has a database of its own: what one made or used up must not decide what
                # the next one sees.
                here = folder / str(seed)
                here.mkdir()
                target = (
                    f"sqlite:///{here / 'falqon.db'}"
                    if database == "sqlite"
                    else postgres.create_database(f"fuzz_{seed}")
                )
                with fuzzed_api(target, here) as api:
                    done = fuzz(api, role, url, here, num_examples=options.examples, seed=seed)
                for operation, counts in done.answers.items():
                    answers[operation] += counts
                failures += done.failures
                _say(
                    f"{database}, {name}, seed {seed}: {done.statuses().total()} requests, "
                    f"{len(done.failures)} failures"
                )
                if done.failures:
                    _say("\n".join(line[:MAX_LINE] for line in done.output.splitlines()))
                seed += 1
    _report(answers, failures)
    return (
        1
        if failures or any(status >= 500 for counts in answers.values() for status in counts)
        else 0
    )


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/tmp"))
    folder.chmod(0o755)  # Postgres runs as another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(answers: dict[str, Counter[int]], failures: list[dict[str, Any]]) -> None:
    _say(f"\n{'requests':>8}  {'2xx, 3xx':>8}  {'4xx':>8}  {'5xx':>8}  operation")
    for operation, counts in sorted(answers.items()):
        refused = sum(n for status, n in counts.items() if 400 <= status < 500)
        broken = sum(n for status, n in counts.items() if status >= 500)
        _say(
            f"{counts.total():8}  {counts.total() - refused - broken:8}  {refused:8}  {broken:8}  "
            f"{operation}"
        )
    _say(f"{_total(answers):8}  requests to {len(answers)} operations, {len(failures)} failures")


def _total(answers: dict[str, Counter[int]]) -> int:
    return sum(counts.total() for counts in answers.values())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
