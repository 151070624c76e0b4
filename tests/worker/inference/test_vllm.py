"""vLLM as a child of the worker, with a stand-in for vLLM itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.base.settings import Settings
from tests.support import vllm_stand_in
from tests.support.backend import processes
from tests.support.waiting import wait_for
from worker.inference.engine_process import EngineEnded, EngineProcess

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
SIZES = ["--context", "512", "--cache-bytes", "4096", "--on-cpu"]
START = """
import sys, tempfile, time
from app.base.settings import Settings
from worker.inference.engine_process import EngineProcess
with tempfile.TemporaryFile() as log:
    process = EngineProcess(sys.argv[1:], "tiny", Settings(_env_file=None), log)
    print(process.wait_for_address(lambda: None), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Of the engine, with a folder that names its processes."""
    (tmp_path / "model").mkdir()
    return ["worker.inference.vllm", str(tmp_path / "model"), *SIZES]


@pytest.fixture
def engine(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EngineProcess]:
    vllm_stand_in.install(tmp_path / "bin", monkeypatch)
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ '<tool_call>' }}")
    with (
        tempfile.TemporaryFile() as log,
        EngineProcess(command, "tiny", Settings(_env_file=None), log) as process,
        process.output,
    ):
        yield process


def test_vllm_answers_with_its_token_and_leaves_no_process(
    engine: EngineProcess, tmp_path: Path
) -> None:
    address = engine.wait_for_address(lambda: None)
    url = f"{address}/v1/chat/completions"
    assert httpx.post(url, json=QUESTION).status_code == 401
    headers = {"authorization": f"Bearer {engine.token}"}
    answer = httpx.post(url, json=QUESTION, headers=headers).json()
    arguments = json.loads(answer["choices"][0]["message"]["content"])
    assert arguments[:4] == ["serve", str(tmp_path / "model"), "--served-model-name", "tiny"]
    assert arguments[4:8] == ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    assert engine.token not in arguments, "everybody on the machine sees them"
    options = " ".join(arguments)
    assert "--max-model-len 512 --kv-cache-memory-bytes 4096" in options
    assert "--enforce-eager" in arguments
    assert "--tool-call-parser hermes" in options
    (server,) = processes("vllm_stand_in.py", str(tmp_path))
    os.kill(server, signal.SIGKILL)
    with pytest.raises(EngineEnded):
        wait_for(lambda: engine.check_alive(0.1))
    wait_for(lambda: not processes(str(tmp_path)), what="what it has started ends with it")


def test_another_engine_that_has_taken_the_port_is_not_taken_for_it(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that are loaded at once may find the same port free."""
    other = f'VLLM_API_KEY=of-another {sys.executable} {vllm_stand_in.__file__} "$@"'
    script = f"{other} & sleep 3; echo address already in use >&2; exit 1;"
    vllm_stand_in.install(tmp_path / "bin", monkeypatch, script)
    with (
        tempfile.TemporaryFile() as log,
        EngineProcess(command, "tiny", Settings(_env_file=None), log) as process,
        process.output,
        pytest.raises(EngineEnded, match="address already in use"),
    ):
        process.wait_for_address(lambda: None)


def test_vllm_ends_with_its_worker(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_stand_in.install(tmp_path / "bin", monkeypatch)
    worker = subprocess.Popen([sys.executable, "-c", START, *command], stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith(b"http://127.0.0.1:")
        assert processes(vllm_stand_in.HELPER, str(tmp_path))
        worker.kill()
    wait_for(lambda: not processes(str(tmp_path)), what="the engine ends")


def test_an_engine_that_does_not_start_is_reported_with_its_log(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_stand_in.install(tmp_path / "bin", monkeypatch, "echo no such device >&2; exit 3;")
    with (
        tempfile.TemporaryFile() as log,
        EngineProcess(command, "tiny", Settings(_env_file=None), log) as process,
        process.output,
        pytest.raises(EngineEnded, match=r"no such device\nvllm has ended with 3"),
    ):
        process.wait_for_address(lambda: None)
