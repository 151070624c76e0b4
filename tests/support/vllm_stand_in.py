"""What a worker sees of vLLM, without a model: `install` puts it on the PATH as `vllm`.

It is a process with another one beside it, answers /health to anybody, and questions to whoever has
the key: with its own arguments, or in a stream that counts while somebody listens. /metrics says
how many streams there are, unless it is told to keep no figures.
"""

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

options: dict[str, str] = {}
streams: set[threading.Thread] = set()


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
        return self._answer(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self._answer(401, {"error": {"message": "who are you?"}})
        if question.get("stream"):
            return self._count()
        message = {"role": "assistant", "content": json.dumps(sys.argv[1:])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return self._answer(200, answer | {"choices": [choice]})

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
    options |= zip(sys.argv[3::2], sys.argv[4::2], strict=False)
    wait = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    subprocess.Popen([sys.executable, "-c", wait, HELPER, sys.argv[2]])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler)
    server.serve_forever()
