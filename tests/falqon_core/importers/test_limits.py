import contextlib
import mmap
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from falqon_core.contract.errors import ModelError
from falqon_core.importers import limits
from falqon_core.importers.limits import limit_resources, size_of
from tests.support.backend import ROOT


def state() -> tuple[object, ...]:
    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_CPU)
    return (
        signal.getsignal(signal.SIGALRM),
        *map(resource.getrlimit, kinds),
        signal.getitimer(signal.ITIMER_REAL),
    )


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BASE_IMPORT_SECONDS", 0.1)
    before = state()

    with (
        pytest.raises(ModelError, match="took more than 0 s, the limit for its size"),
        limit_resources(0),
    ):
        time.sleep(10)
    assert state() == before


def test_a_library_that_catches_everything_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BASE_IMPORT_SECONDS", 0.1)

    def swallow() -> None:
        with contextlib.suppress(Exception):
            time.sleep(10)

    with pytest.raises(ModelError, match="took more than"), limit_resources(0):
        swallow()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_an_import_step_that_takes_too_much_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits, "IMPORT_MEMORY_BYTES", 2**26)
    with (tmp_path / "large").open("wb+") as file:
        file.truncate(2**31)
        with limit_resources(0), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            pass  # a file that is looked into does not count
    before = state()

    with (
        pytest.raises(ModelError, match=r"more than 0\.1 GiB of memory, the limit for its size"),
        limit_resources(0),
    ):
        bytearray(2**28)
    assert state() == before
    with limit_resources(2**24):
        bytearray(2**28)


def test_an_uninterruptible_import_step_is_ended_by_the_kernel() -> None:
    program = (
        "import os; os.cpu_count = lambda: 1\n"
        "from falqon_core.importers import limits\n"
        "limits.BASE_IMPORT_SECONDS = 0.1; limits.EXTRA_CPU_SECONDS = 1\n"
        "with limits.limit_resources(0): sum(range(10**12))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )

    assert done.returncode == -signal.SIGXCPU


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "sub" / "b").write_bytes(b"345")
    assert (size_of(tmp_path), size_of(tmp_path / "a"), size_of(tmp_path / "nowhere")) == (5, 2, 0)
