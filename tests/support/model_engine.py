"""An engine of the operator's own whose answers depend on a word of the model's name: with `bad` it
says nonsense, with `fragile` it fails at the word `break`, with `strict` it refuses that, with
`judge` it gives what was expected 5 and anything else 1, and otherwise it says what was expected.
"""

import json
import re
from contextlib import AbstractContextManager

from tests.support.local_server import QuietHandler, serving_by

EXPECTED = "four"
BREAK = "break"


class Handler(QuietHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        words = re.split("[-:]", model)  # a random id may hold "bad" in its digits
        if "fragile" in words and body["messages"][-1]["content"] == BREAK:
            return self.send(500, b'{"error": {"message": "out of luck", "code": 500}}')
        if "strict" in words and body["messages"][-1]["content"] == BREAK:
            return self.send(400, b'{"error": {"message": "more than the context", "code": 400}}')
        content = "nonsense" if "bad" in words else EXPECTED
        if "judge" in words:
            is_right = f"<{EXPECTED}>" in body["messages"][-1]["content"]
            content = json.dumps({"result": 5 if is_right else 1})
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "chatcmpl-x", "object": "chat.completion", "created": 1, "model": model}
        whole = answer | {"choices": [choice], "usage": usage}
        return self.send(200, json.dumps(whole).encode(), content_type="application/json")


def model_engine() -> AbstractContextManager[str]:
    """Give the address that it listens at."""
    return serving_by(Handler)


def rows(count: int) -> bytes:
    """Return so many questions that expect what a good model says."""
    lines = []
    for number in range(count):
        question = {"role": "user", "content": f"Question {number}: two and two?"}
        answer = {"role": "assistant", "content": EXPECTED}
        lines.append(json.dumps({"messages": [question, answer]}).encode() + b"\n")
    return b"".join(lines)
