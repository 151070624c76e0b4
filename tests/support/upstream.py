"""An upstream that speaks as OpenAI's chat does, on a port of its own. It keeps what it was sent,
and refuses, breaks off or redirects when it is told to.
"""

import json
import threading
from typing import Any, NamedTuple

from tests.support.local_server import LocalServer, QuietHandler

KEY = "sk-upstream-of-these-tests-0123456789"
WORDS = ("Four", " it", " is.")
CREATED_AT = 1_764_000_000
Json = dict[str, Any]


class Refusal(NamedTuple):
    status: int
    content: bytes
    headers: dict[str, str] = {}


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: Json


class Upstream(LocalServer):
    """`breaks_after`: events of a stream after which it hangs up."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.refusal: Refusal | None = None
        self.breaks_after: int | None = None
        self.content = "".join(WORDS)
        self.falls_silent = False
        self.closing = threading.Event()
        upstream = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or each answer waits 40 ms

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.received.append(Received(self.path, dict(self.headers.items()), body))
                if upstream.falls_silent:
                    upstream.closing.wait()
                elif (refusal := upstream.refusal) is not None:
                    self.send(refusal.status, refusal.content, **refusal.headers)
                elif self.path == "/v1/embeddings":
                    self.send(200, json.dumps(upstream.embedded(body)).encode())
                elif body.get("stream"):
                    self._stream(body)
                else:
                    self.send(200, json.dumps(upstream.whole(body)).encode())

            def _stream(self, body: Json) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                events = [json.dumps(event) for event in upstream.events(body)]
                for event in [*events, "[DONE]"][: upstream.breaks_after]:
                    part = f"data: {event}\n\n".encode()
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                if upstream.breaks_after is None:
                    self.wfile.write(b"0\r\n\r\n")
                else:  # without the end of its parts
                    self.close_connection = True

        super().__init__(Handler)

    def close(self) -> None:
        self.closing.set()
        super().close()

    def embedded(self, body: Json) -> Json:
        rows = [
            {"object": "embedding", "index": index, "embedding": [0.5, 0.25]}
            for index in range(len(body["input"]))
        ]
        usage = {"prompt_tokens": 400, "total_tokens": 400}
        return {"object": "list", "data": rows, "model": body["model"], "usage": usage}

    def whole(self, body: Json) -> Json:
        message: Json = {"role": "assistant", "content": self.content}
        finish_reason = "stop"
        if body.get("tools"):
            name = body["tools"][0]["function"]["name"]
            function = {"name": name, "arguments": "{}"}
            calls = [{"id": "call_1", "type": "function", "function": function}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
            finish_reason = "tool_calls"
        num_choices = body.get("n", 1)
        choice = {"message": message, "finish_reason": finish_reason}
        return {
            "id": "chatcmpl-upstream",
            "object": "chat.completion",
            "created": CREATED_AT,
            "model": body["model"],
            "service_tier": "default",
            "choices": [{"index": index} | choice for index in range(num_choices)],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 3 * num_choices,
                "total_tokens": 7 + 3 * num_choices,
            },
        }

    def events(self, body: Json) -> list[Json]:
        whole = self.whole(body) | {"object": "chat.completion.chunk"}
        usage = whole.pop("usage")
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in WORDS]
        parts: list[Json] = [{"delta": each, "finish_reason": None} for each in deltas]
        parts.append({"delta": {}, "finish_reason": "stop"})
        events = [
            whole | {"choices": [{"index": index} | part], "usage": None}
            for part in parts
            for index in range(body.get("n", 1))
        ]
        return [*events, whole | {"choices": [], "usage": usage}]
