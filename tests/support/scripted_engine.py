"""An engine of the operator's own that plays what the last message names: a call in pieces,
thoughts, cut answers, the name of the requested schema, a broken stream; any other message it says
again, with the number of messages.
"""

import json
import time
from contextlib import AbstractContextManager
from typing import Any

from tests.support.local_server import QuietHandler, serving_by

Delta = dict[str, Any]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def call(index: int, **function: str) -> Delta:
    names = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, "function": function} | names]}


SCRIPTS: dict[str, tuple[list[Delta], str]] = {
    "call": (
        [
            {"content": "Well."},
            call(0, name="weather", arguments=""),
            call(0, arguments='{"city": '),
            call(0, arguments='"Bern"}'),
            call(1, name="weather", arguments='{"city": "Rome"}'),
        ],
        "tool_calls",
    ),
    "think": ([{"reasoning_content": "Hm"}, {"reasoning_content": "m."}, {"content": "4"}], "stop"),
    "cut": ([{"content": "One, two"}], "length"),
    "cut thoughts": ([{"reasoning_content": "Hm"}], "length"),
    "cut at once": ([], "length"),
}


def script_of(body: dict[str, Any]) -> tuple[list[Delta], str]:
    messages = body["messages"]
    content = messages[-1]["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    if text == "schema":
        name = body["response_format"]["json_schema"]["name"]
        return [{"content": json.dumps({"name": name})}], "stop"
    return SCRIPTS.get(text, ([{"content": text}, {"content": f" {len(messages)}"}], "stop"))


def joined(deltas: list[Delta]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for name in delta.keys() - {"tool_calls"}:
            message[name] = (message.get(name) or "") + delta[name]
        for part in delta.get("tool_calls", ()):
            own = calls.setdefault(part["index"], part | {"function": part["function"].copy()})
            if own["function"] != part["function"]:
                own["function"]["arguments"] += part["function"]["arguments"]
    for own in calls.values():
        own.pop("index")
    return message | ({"tool_calls": list(calls.values())} if calls else {})


class Handler(QuietHandler):
    def do_GET(self) -> None:
        self.send(200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            return self.send(404)
        deltas, reason = script_of(body)
        if body.get("stream"):
            return self._stream(body, deltas, reason)
        choice = {"index": 0, "message": joined(deltas), "finish_reason": reason}
        answer = self._shared(body, "chat.completion") | {"choices": [choice], "usage": USAGE}
        return self.send(200, json.dumps(answer).encode())

    def _stream(self, body: dict[str, Any], deltas: list[Delta], reason: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        shared = self._shared(body, "chat.completion.chunk")
        is_broken = body["messages"][-1]["content"] == "break"
        for delta in [{"role": "assistant"}, *deltas]:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            self._send_event(shared | {"choices": [choice]})
        if is_broken:
            return self._send_event({"error": {"code": 500, "message": "out of luck"}})
        self._send_event(shared | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        self._send_event(shared | {"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def _shared(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        now = int(time.time())
        return {"id": "chatcmpl-x", "object": kind, "created": now, "model": body["model"]}

    def _send_event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


def scripted_engine() -> AbstractContextManager[str]:
    """Give the address that it listens at."""
    return serving_by(Handler)
