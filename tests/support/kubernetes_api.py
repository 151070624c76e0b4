"""Kubernetes' API for Jobs and PodTemplates of one namespace, answering as its reference says. What
controllers would do to a Job is done by the test.
"""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

Json = dict[str, Any]
VERSION = "1.32"
CREATED = "2026-11-30T00:00:00Z"


class KubernetesApi:
    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.templates: dict[str, Json] = {}
        self.token: str | None = None
        self.is_away = False
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._version = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                with api._lock:
                    status, answer = api._serve(
                        self.command, self.path, self.headers.get("authorization"), body
                    )
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def served(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def admit(self, name: str, *, is_admitted: bool = True) -> None:
        """Do as Kueue does at an admission, or at a preemption."""
        self.change(name, spec={"suspend": not is_admitted})

    def finish(self, name: str, condition: str = "Complete") -> None:
        self.change(name, status={"conditions": [{"type": condition, "status": "True"}]})

    def change(self, name: str, **parts: Json) -> None:
        with self._lock:
            job = self.jobs[name]
            for part, fields in parts.items():
                job.setdefault(part, {}).update(fields)
            job["metadata"]["resourceVersion"] = self._next_version()

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)

    def _serve(
        self, method: str, path: str, authorization: str | None, body: Json
    ) -> tuple[int, Json]:
        parts = urlsplit(path)
        self.requests.append((method, parts.path))
        if self.is_away:
            return _status(HTTPStatus.SERVICE_UNAVAILABLE, "the server is starting")
        if self.token is not None and authorization != f"Bearer {self.token}":
            return _status(HTTPStatus.UNAUTHORIZED, "Unauthorized")
        batch, core = (f"{group}/namespaces/team/" for group in ("/apis/batch/v1", "/api/v1"))
        if parts.path.startswith(f"{core}podtemplates/") and method == "GET":
            name = parts.path.rpartition("/")[2]
            found = self.templates.get(name)
            missing = _status(HTTPStatus.NOT_FOUND, f'podtemplates "{name}" not found')
            return missing if found is None else (HTTPStatus.OK, found)
        if parts.path == f"{batch}jobs" and method == "GET":
            return self._list(parse_qs(parts.query))
        if parts.path == f"{batch}jobs" and method == "POST":
            return self._create(body)
        if parts.path.startswith(f"{batch}jobs/") and method == "DELETE":
            return self._delete(parts.path.rpartition("/")[2], body)
        return _status(HTTPStatus.NOT_FOUND, "the server could not find the requested resource")

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Json]:
        (selector,) = query["labelSelector"]
        label, _, value = selector.partition("=")
        found = [job for job in self.jobs.values() if job["metadata"]["labels"].get(label) == value]
        first = int(query.get("continue", ["0"])[0])
        end = first + min(int(query["limit"][0]), 2)  # A server may send fewer than it was asked.
        metadata = {"resourceVersion": str(self._version)}
        if end < len(found):
            metadata["continue"] = str(end)
        listed = {"kind": "JobList", "apiVersion": "batch/v1", "metadata": metadata}
        return HTTPStatus.OK, listed | {"items": found[first:end]}

    def _create(self, body: Json) -> tuple[int, Json]:
        name = body["metadata"]["name"]
        try:
            kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            reason = f'Job.batch "{name}" is invalid: {error}'
            return _status(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
        if name in self.jobs:
            return _status(HTTPStatus.CONFLICT, f'jobs.batch "{name}" already exists')
        body["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "resourceVersion": self._next_version(),
            "creationTimestamp": CREATED,
        }
        self.jobs[name] = body | {"status": {}}
        return HTTPStatus.CREATED, self.jobs[name]

    def _delete(self, name: str, options: Json) -> tuple[int, Json]:
        kubernetes_validate_options(options)
        job = self.jobs.get(name)
        if job is None:
            return _status(HTTPStatus.NOT_FOUND, f'jobs.batch "{name}" not found')
        for field, value in (options.get("preconditions") or {}).items():
            if job["metadata"][field] != value:
                reason = f"the {field} in the precondition ({value}) does not match"
                return _status(HTTPStatus.CONFLICT, reason)
        del self.jobs[name]
        return HTTPStatus.OK, {"kind": "Status", "apiVersion": "v1", "status": "Success"}


def kubernetes_validate_options(options: Json) -> None:
    assert (options["kind"], options["apiVersion"]) == ("DeleteOptions", "v1")
    assert options["propagationPolicy"] in ("Orphan", "Background", "Foreground")
    assert set(options["preconditions"]) <= {"uid", "resourceVersion"}


def _status(code: HTTPStatus, message: str) -> tuple[int, Json]:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": code.phrase.replace(" ", ""),
        "code": int(code),
    }
    return code, body
