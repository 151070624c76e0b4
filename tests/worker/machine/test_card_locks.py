import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from worker.machine.card_locks import lock_cards

HOLD = """
import sys, tempfile
from worker.machine.card_locks import lock_cards
tempfile.tempdir = sys.argv[1]
with lock_cards([0, 1], 1) as cards:
    print(cards, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_card_is_held_once_until_it_is_let_go() -> None:
    with lock_cards([0, 1], 1) as first, lock_cards([0, 1], 2) as second:
        assert (first, second) == ((0,), (1,))
        with lock_cards([0, 1], 1) as third:
            assert third == ()
    with lock_cards([0, 1], 2) as both:
        assert both == (0, 1)


def test_a_killed_holder_holds_nothing(locks: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"(0,)\n"
        with lock_cards([0], 1) as cards:
            assert cards == ()
        process.kill()
        process.wait()
        with lock_cards([0], 1) as cards:
            assert cards == (0,)
