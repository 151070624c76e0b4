"""What a worker sees of vLLM, without a model: `install` puts it on the PATH as `vllm`.

It is a process with another one beside it, answers /health to anybody, and questions to whoever has
the key: with its own arguments, or in a stream that counts while somebody listens. /metrics says
how many streams there are, unless it is told to keep no figures.

With --enable-lora, and runtime updates allowed, it takes adapters as vLLM's page on them says: each
is asked by its name, and answers with its name and the hash of its file.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

HELPER = "vllm-engine-core"  # in the command line of the other process
NUM_STREAMS = "vllm:num_requests_running"
NO_FIGURES = "--disable-log-stats"
COUNT_SECONDS = 0.05
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

options: dict[str, str] = {}
streams: set[threading.Thread] = set()
adapters: dict[str, str] = {}  # hash of the file by name


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    command = folder / "vllm"
    command.write_text(f'#!/bin/sh\n{script or f"exec {sys.executable} {__file__}"} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/metrics":
            labels = f'engine="0",model_name="{options["--served-model-name"]}"'
            figures = f"{NUM_STREAMS}{{{labels}}} {len(streams)}.0\n"
            return self._send(200, "text/plain", "" if NO_FIGURES in sys.argv else figures)
        if self.path.startswith("/v1/"):
            return self._answer(200 if self._has_key() else 401, {})
        return self._answer(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._has_key():
            return self._answer(401, {"error": {"message": "who are you?"}})
        may_update = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True"
        if self.path.endswith("load_lora_adapter") and may_update and "--enable-lora" in sys.argv:
            return self._update(self.path.rpartition("/")[2], question)
        name = question["model"]
        if name != options["--served-model-name"] and name not in adapters:
            return self._refuse(404, f"The model `{name}` does not exist.")
        if question.get("stream"):
            return self._count()
        content = json.dumps({name: adapters[name]} if name in adapters else sys.argv[1:])
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": name}
        return self._answer(200, answer | {"choices": [choice]})

    def _has_key(self) -> bool:
        return self.headers["authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"

    def _update(self, call: str, request: dict[str, str]) -> None:
        name = request["lora_name"]
        if call == "unload_lora_adapter":
            if adapters.pop(name, None) is None:
                return self._refuse(404, f"The lora adapter '{name}' cannot be found.")
            return self._send(200, "text/plain", f"Success: LoRA adapter '{name}' removed.")
        if name in adapters:
            return self._refuse(400, f"The lora adapter '{name}' has already been loaded.")
        folder = Path(request["lora_path"])
        if not all((folder / each).is_file() for each in ADAPTER_FILES):
            return self._refuse(404, f"No adapter found for {folder}")
        rank = json.loads((folder / ADAPTER_FILES[0]).read_bytes())["r"]
        if rank > int(options["--max-lora-rank"]):
            return self._refuse(500, f"LoRA rank {rank} is greater than max_lora_rank")
        adapters[name] = hashlib.sha256((folder / ADAPTER_FILES[1]).read_bytes()).hexdigest()
        return self._send(200, "text/plain", f"Success: LoRA adapter '{name}' added successfully.")

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"message": message, "code": status}})

    def _count(self) -> None:
        streams.add(threading.current_thread())
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):
            for number in itertools.count():
                choice = {"index": 0, "delta": {"content": f"{number} "}}
                event = f"data: {json.dumps({'choices': [choice]})}\n\n"
                self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())
                time.sleep(COUNT_SECONDS)
        streams.discard(threading.current_thread())

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: object) -> None:
        self._send(status, "application/json", json.dumps(body))

    def _send(self, status: int, content_type: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    options |= zip(sys.argv[3:], sys.argv[4:], strict=False)
    wait = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    subprocess.Popen([sys.executable, "-c", wait, HELPER, sys.argv[2]])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler)
    server.serve_forever()
