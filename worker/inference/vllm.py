"""vLLM's server as a program of its own: folder of the model, its name -> its address on stdout,
then answers until it is killed. `FALQON_ENGINE_TOKEN` is what it asks callers for.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from contextlib import closing, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from app.base.processes.parent_death import signal_at_death_of_parent
from falqon_core.contract.formats import MAX_SHARED_RANK
from worker.inference.llama_cpp import TOKEN_VARIABLE
from worker.machine.engines import find_vllm

SERVER_POLL_SECONDS = 0.2
HEALTH_SECONDS = 5
READY_PATHS = ("/health", "/v1/models")  # The second one only with the token.
PARALLEL_ANSWERS = 64
# Adapters on one base: in one step, each of which has memory from the start, and altogether.
STEP_ADAPTERS = 8
MAX_ADAPTERS = 64
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, MAX_SHARED_RANK)  # limits that vLLM can be given
# The worker reads the engine's metrics, so its log needs no lines of them.
LOG_STATS_SECONDS = "1000000"
NO_TELEMETRY = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}  # No telemetry.
CHAT_TEMPLATE = "chat_template.jinja"
HERMES_CALL = "<tool_call>"  # Most models write their tool calls so.


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens, of one answer")
    parser.add_argument("--cache-bytes", type=int, required=True, help="for keys and values")
    parser.add_argument("--on-cpu", action="store_true")
    parser.add_argument("--adapter-rank", type=int, help="the highest of adapters that come later")
    args = parser.parse_args()
    # vLLM's own processes do not notice the death of the process that started them.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal_at_death_of_parent(signal.SIGTERM)
    port = _free_port(args.host)
    environment = _environment(os.environ)
    if args.adapter_rank is not None:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    process = subprocess.Popen(command_of(args, port), env=environment, stdout=sys.stderr)
    while not _is_ready(args.host, port, environment["VLLM_API_KEY"]):
        if process.poll() is not None:
            break
        time.sleep(SERVER_POLL_SECONDS)
    else:
        os.write(1, f"http://{args.host}:{port}\n".encode())
    sys.stderr.write(f"vllm has ended with {process.wait()}\n")
    os.killpg(0, signal.SIGKILL)


def command_of(args: Namespace, port: int) -> list[str]:
    command = [find_vllm() or "vllm", "serve", str(args.folder)]
    command += ["--served-model-name", args.name, "--host", args.host, "--port", str(port)]
    command += ["--max-model-len", str(args.context)]
    command += ["--kv-cache-memory-bytes", str(args.cache_bytes)]
    command += ["--max-num-seqs", str(PARALLEL_ANSWERS)]
    command += ["--disable-uvicorn-access-log", "--disable-fastapi-docs"]
    if args.on_cpu:
        command.append("--enforce-eager")  # Compiling takes minutes there and a compiler.
    if args.adapter_rank is not None:
        command += ["--enable-lora", "--max-lora-rank", str(args.adapter_rank)]
        command += ["--max-loras", str(STEP_ADAPTERS), "--max-cpu-loras", str(MAX_ADAPTERS)]
    template = args.folder / CHAT_TEMPLATE
    if template.is_file() and HERMES_CALL in template.read_text(encoding="utf-8"):
        command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return command


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    others = {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}
    log = {"VLLM_LOG_STATS_INTERVAL": LOG_STATS_SECONDS}
    return others | NO_TELEMETRY | log | {"VLLM_API_KEY": environment[TOKEN_VARIABLE]}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(host: str, port: int, token: str) -> bool:
    """Return whether this server answers: another program may have taken the port meanwhile, and
    answers to any token that it is well.
    """
    headers = {"Authorization": f"Bearer {token}"}
    with (
        suppress(OSError, HTTPException),
        closing(HTTPConnection(host, port, timeout=HEALTH_SECONDS)) as connection,
    ):
        return all(_status_of(connection, path, headers) == HTTPStatus.OK for path in READY_PATHS)
    return False


def _status_of(connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> int:
    connection.request("GET", path, headers=dict(headers))
    answer = connection.getresponse()
    answer.read()
    return answer.status


if __name__ == "__main__":
    main()
