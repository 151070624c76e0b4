"""An engine that says again what it was asked, in pieces, or counts while somebody listens, for
what no model can be made to say.
"""

import itertools
import json
import time
from contextlib import AbstractContextManager, suppress

from tests.support.local_server import QuietHandler, serving_by

COUNT = "Count."
COUNT_SECONDS = 0.05


class Handler(QuietHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        half = len(text) // 2
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if text == COUNT:
            return self._count()
        deltas = [{"reasoning_content": text}, {"content": text[:half]}, {"content": text[half:]}]
        for delta in deltas:
            self._send({"choices": [{"index": 0, "delta": delta}]})
        self._send({"choices": [], "usage": {"completion_tokens": 2, "total_tokens": 4}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _count(self) -> None:
        with suppress(ConnectionError):
            for number in itertools.count():
                self._send({"choices": [{"index": 0, "delta": {"content": f"{number} "}}]})
                time.sleep(COUNT_SECONDS)

    def _send(self, event: dict[str, object]) -> None:
        data = json.dumps(event, ensure_ascii=False)  # as vLLM writes it
        self.wfile.write(f"data: {data}\n\n".encode())


def echo_engine() -> AbstractContextManager[str]:
    """Give the address that it listens at."""
    return serving_by(Handler)
