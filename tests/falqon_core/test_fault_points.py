import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falqon_core import fault_points
from falqon_core.fault_points import InjectedFault, fault

ROOT = Path(__file__).resolve().parents[3]
PASS_ONCE = [
    sys.executable,
    "-c",
    "from falqon_core.fault_points import fault; fault('here'); print('passed')",
]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def passed(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        PASS_ONCE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_an_unarmed_fault_point_does_nothing() -> None:
    fault("here")


def test_the_environment_arms_and_the_mark_tells(tmp_path: Path) -> None:
    armed = {"FAULT_POINTS": "here=exit elsewhere=exit", "FAULT_MARKS": str(tmp_path / "marks")}
    assert (passed(armed).returncode, [path.name for path in (tmp_path / "marks").iterdir()]) == (
        137,
        ["here"],
    )
    assert passed(armed).stdout == "passed\n", "who takes over is spared"


def test_a_stopped_process_continues_when_told(tmp_path: Path) -> None:
    environment = os.environ | {"FAULT_POINTS": "here=stop"}
    child = subprocess.Popen(
        PASS_ONCE, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=20)[0] == "passed\n"


def test_a_fault_point_fires_at_the_named_passage(tmp_path: Path) -> None:
    fault_points.arm("third=enospc*3 each=raise*", str(tmp_path))
    fault("third")
    fault("third")
    with pytest.raises(OSError, match="No space") as full:
        fault("third")
    assert full.value.errno == errno.ENOSPC
    fault("third")
    for _ in range(2):
        with pytest.raises(InjectedFault):
            fault("each")
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("third", "each")] == [1, 2]


@pytest.mark.parametrize("text", ["here", "here=explode", "here=exit*0", "here=exit,there=exit"])
def test_a_misspelt_fault_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        fault_points.arm(text)
