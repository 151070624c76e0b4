import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.base.processes.supervised_process import (
    LINES_AT_ONCE,
    MAX_LOG_BYTES,
    SupervisedProcess,
    in_words,
)
from tests.support.waiting import wait_for


@contextmanager
def running(folder: Path, program: str) -> Iterator[SupervisedProcess]:
    child = SupervisedProcess("api", [sys.executable, "-c", program], os.environ, folder)
    child.start()
    try:
        yield child
    finally:
        child.close()


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_log_is_turned_over_while_its_program_runs(tmp_path: Path) -> None:
    program = """
import time
for number in range(2500):
    print(f"{number:05}", "x" * 10_000)
print("the end", flush=True)
time.sleep(60)
"""
    log = tmp_path / "api.log"
    old = tmp_path / "api.old.log"
    with running(tmp_path, program) as child:
        wait_for(lambda: "the end" in read(log))
        assert child.is_alive()
    assert sorted(tmp_path.iterdir()) == [log, old]
    assert log.stat().st_size + old.stat().st_size > MAX_LOG_BYTES
    assert max(log.stat().st_size, old.stat().st_size) <= MAX_LOG_BYTES
    lines = (old.read_text() + log.read_text()).splitlines()
    numbers = [int(line[:5]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 2500)), (
        "nothing is lost where one ends and the next begins"
    )


def test_a_line_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.stdout.write('x' * 200_000); sys.stdout.flush(); time.sleep(60)"
    )
    with running(tmp_path, program):
        wait_for(lambda: len(read(tmp_path / "api.log")) > 100_000)


def test_trouble_is_said_at_a_pace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = """
import time
end = time.monotonic() + 2
while time.monotonic() < end:
    print("an error, GET /error", flush=True)
print("over", flush=True)
time.sleep(60)
"""
    began = time.monotonic()
    with running(tmp_path, program):
        wait_for(lambda: "over" in read(tmp_path / "api.log"))
    lines = [line for line in capfd.readouterr().err.splitlines() if "GET /error" in line]
    assert LINES_AT_ONCE <= len(lines) <= LINES_AT_ONCE + time.monotonic() - began + 1
    assert len(read(tmp_path / "api.log").splitlines()) > 100


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"event": "delivery failed", "level": "warning", "error": "500 of the receiver"},
            "delivery failed: 500 of the receiver (the log has more)",
        ),
        (
            {"event": "it broke.", "level": "error", "exception": "Traceback:\nValueError: x"},
            "it broke: ValueError: x (the log has more)",
        ),
        ({"event": "request", "level": "info", "error": None}, ""),
        (["error"], '["error"]'),
    ],
)
def test_a_line_of_json_becomes_one_in_words(entry: object, words: str) -> None:
    assert in_words(json.dumps(entry)) == words


def test_a_line_of_no_json_stays_as_it_is() -> None:
    assert in_words("ImportError: no such module") == "ImportError: no such module"
    assert in_words("[" * 60_000) == "[" * 60_000
