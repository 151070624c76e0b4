"""An account in the part of OpenAI: objects in the shapes of its API reference, written by hand, on
a port of its own. It only answers; what it was asked is kept.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.local_server import LocalServer, QuietHandler

Json = dict[str, Any]

KEY = "sk-proj-of-these-tests-0123456789abcdef"
CREATED_AT = 1_764_000_000
PAGE = 2  # at most, so that every list has several


def a_file(number: int, content: bytes, **fields: Any) -> Json:
    return {
        "object": "file",
        "id": f"file-{number:022d}",
        "purpose": "fine-tune",
        "filename": f"rows-{number}.jsonl",
        "bytes": len(content),
        "created_at": CREATED_AT + number,
        "expires_at": None,
        "status": "processed",
        "status_details": None,
    } | fields


def a_job(number: int, training_file: str, **fields: Any) -> Json:
    """Return a supervised job that has succeeded, as it is listed today."""
    hyperparameters = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
    return {
        "object": "fine_tuning.job",
        "id": f"ftjob-{number:024d}",
        "model": "gpt-4o-mini-2024-07-18",
        "created_at": CREATED_AT + number,
        "finished_at": CREATED_AT + number + 600,
        "fine_tuned_model": f"ft:gpt-4o-mini-2024-07-18:acme::{number:08d}",
        "organization_id": "org-acme",
        "result_files": [],
        "status": "succeeded",
        "validation_file": None,
        "training_file": training_file,
        "hyperparameters": hyperparameters,
        "trained_tokens": 3600,
        "error": {},
        "user_provided_suffix": None,
        "seed": 1_935_755_117,
        "estimated_finish": None,
        "integrations": [],
        "metadata": None,
        "usage_metrics": None,
        "shared_with_openai": False,
        "eval_id": None,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    } | fields


def a_checkpoint(job: Json, step: int) -> Json:
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt_{step:024d}",
        "created_at": CREATED_AT,
        "fine_tuned_model_checkpoint": f"{job['fine_tuned_model']}:ckpt-step-{step}",
        "fine_tuning_job_id": job["id"],
        "step_number": step,
        "metrics": {"step": step, "train_loss": 0.4},
    }


def an_error(message: str, type_: str, code: str | None = None) -> Json:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


class Refusal(Exception):
    def __init__(self, status: int, body: Json, **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers


class OpenAiAccount(LocalServer):
    def __init__(self) -> None:
        self.files: list[Json] = []
        self.contents: dict[str, bytes] = {}
        self.jobs: list[Json] = []
        self.checkpoints: dict[str, list[Json]] = {}
        self.answer: Callable[[Json], Json] = lambda body: a_completion("four")
        self.refusals: dict[str, list[Refusal]] = {}  # by path, each answered once
        self.requests: Counter[str] = Counter()
        self.bodies: list[Json] = []
        self._lock = threading.Lock()
        account = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or each answer waits 40 ms

            def do_GET(self) -> None:
                self._answer(account.get)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._answer(lambda path, _query: account.complete(path, body))

            def _answer(self, handle: Callable[[str, dict[str, list[str]]], Json | bytes]) -> None:
                address = urlsplit(self.path)
                path = address.path.removeprefix("/v1")
                status, headers = 200, {}
                try:
                    account.admit(path, self.headers["authorization"])
                    answer = handle(path, parse_qs(address.query))
                except Refusal as refusal:
                    status, answer, headers = refusal.status, refusal.body, refusal.headers
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send(status, content, **headers)

        super().__init__(Handler)
        self.url += "/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def add_file(self, content: bytes, **fields: Any) -> str:
        file = a_file(len(self.files), content, **fields)
        self.files.append(file)
        self.contents[file["id"]] = content
        return str(file["id"])

    def add_job(self, training_file: str, **fields: Any) -> Json:
        job = a_job(len(self.jobs), training_file, **fields)
        self.jobs.append(job)
        return job

    def refuse(self, path: str, *refusals: Refusal) -> None:
        self.refusals[path] = list(refusals)

    def admit(self, path: str, authorization: str) -> None:
        with self._lock:
            self.requests[path] += 1
            refusal = self.refusals[path].pop(0) if self.refusals.get(path) else None
        if authorization != f"Bearer {KEY}":
            message = f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}."
            raise Refusal(401, an_error(message, "invalid_request_error", "invalid_api_key"))
        if refusal is not None:
            raise refusal

    def get(self, path: str, query: dict[str, list[str]]) -> Json | bytes:
        match path.strip("/").split("/"):
            case ["files"]:
                return _page(self.files, query)
            case ["files", id_, "content"]:
                return self.contents[id_]
            case ["files", id_]:
                return _object(self.files, id_)
            case ["fine_tuning", "jobs"]:
                return _page(self.jobs, query)
            case ["fine_tuning", "jobs", id_, "checkpoints"]:
                return _page(self.checkpoints.get(id_, []), query)
            case ["models"]:
                names = [job["fine_tuned_model"] for job in self.jobs if job["fine_tuned_model"]]
                models = [{"id": name, "object": "model"} for name in ["gpt-4o-mini", *names]]
                return {"object": "list", "data": models}
        raise Refusal(404, an_error(f"Unknown request URL: GET {path}", "invalid_request_error"))

    def complete(self, path: str, body: Json) -> Json:
        assert path == "/chat/completions", path
        with self._lock:
            self.bodies.append(body)
        return self.answer(body)


def a_completion(content: str | None, finish_reason: str = "stop", **message: Any) -> Json:
    answer = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED_AT,
        "choices": [{"index": 0, "message": answer | message, "finish_reason": finish_reason}],
    }


def _page(objects: list[Json], query: dict[str, list[str]]) -> Json:
    """Return a page of a list, the newest first."""
    newest_first = objects[::-1]
    after = query.get("after")
    start = 0
    if after:
        start = [each["id"] for each in newest_first].index(after[0]) + 1
    end = start + min(PAGE, int(query["limit"][0]))
    return {"object": "list", "data": newest_first[start:end], "has_more": end < len(newest_first)}


def _object(objects: list[Json], id_: str) -> Json:
    for each in objects:
        if each["id"] == id_:
            return each
    message = f"No such File object: {id_}"
    raise Refusal(404, an_error(message, "invalid_request_error"))
