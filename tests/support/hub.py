"""The write side of the Hugging Face Hub as its own library speaks it: repositories, front matter
that is checked, large files by their SHA-256, commits. Everything is kept in memory.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

from tests.support.local_server import LocalServer, QuietHandler

TOKEN = "hf_a_token_of_acme"
OWNER = "acme"
LARGE_BYTES = 50_000
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
Json = dict[str, Any]


class Repository:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []  # their messages


class HubServer(LocalServer):
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # by sha256
        self.refuse_large: int | None = None  # the status that one large file is refused with, once
        self.requests: list[str] = []
        super().__init__(self._handler())

    def environment(self, home: str, token: str = TOKEN) -> dict[str, str]:
        variables = {"HF_ENDPOINT": self.url, "HF_TOKEN": token, "HF_HOME": home}
        return variables | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def answer(self, method: str, path: str, authorized: bool, body: bytes) -> tuple[int, Json]:
        path = path.partition("?")[0]
        if method == "PUT":  # to an address that is a secret itself
            return self._take_large(path.removeprefix("/large/"), body)
        if not authorized:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return _check_front_matter(json.loads(body)["content"])
        match = re.fullmatch(
            r"(?:/api/models)?/(\w+/[\w.-]+?)(\.git/info/lfs/objects/batch|/preupload/main|/commit/main|)",
            path,
        )
        repository = self.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return 404, {"error": "Repository not found"}
        match match[2]:
            case "/preupload/main":
                return 200, {"files": [_mode(file) for file in json.loads(body)["files"]]}
            case "/commit/main":
                return self._commit(
                    match[1], repository, [json.loads(line) for line in body.splitlines()]
                )
            case ".git/info/lfs/objects/batch":
                return 200, {
                    "transfer": "basic",
                    "objects": [self._where(pointer) for pointer in json.loads(body)["objects"]],
                }
            case _:
                return 200, {
                    "id": match[1],
                    "sha": "0" * 40,
                    "private": repository.private,
                    "siblings": [],
                }

    def _create(self, request: Json) -> tuple[int, Json]:
        name = f"{request['organization']}/{request['name']}"
        url = f"{self.url}/{request['organization']}/{request['name']}"
        if request["organization"] != OWNER:
            return 403, {
                "error": "You don't have the rights to create a model under this namespace"
            }
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": url}
        self.repositories[name] = Repository(
            request.get("visibility") == "private" or request.get("private") is True
        )
        return 200, {"url": url}

    def _where(self, pointer: Json) -> Json:
        here = pointer["oid"] in self.large
        return (
            pointer
            if here
            else pointer | {"actions": {"upload": {"href": f"{self.url}/large/{pointer['oid']}"}}}
        )

    def _take_large(self, sha256: str, content: bytes) -> tuple[int, Json]:
        if self.refuse_large is not None:
            status = self.refuse_large
            self.refuse_large = None
            return status, {"error": "Out of space."}
        if hashlib.sha256(content).hexdigest() != sha256:
            return 400, {"error": "Other bytes."}
        self.large[sha256] = content
        return 200, {}

    def _commit(self, name: str, repository: Repository, lines: list[Json]) -> tuple[int, Json]:
        files = dict(repository.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile" and len(self.large.get(value["oid"], b"")) != value["size"]:
                return 400, {"error": f"{value['path']} was not uploaded"}
            files[value["path"]] = (
                self.large[value["oid"]]
                if line["key"] == "lfsFile"
                else base64.b64decode(value["content"])
            )
        repository.files = files
        repository.commits.append(lines[0]["value"]["summary"])
        oid = f"{len(repository.commits):040x}"
        return 200, {
            "commitUrl": f"{self.url}/{name}/commit/{oid}",
            "commitOid": oid,
            "success": True,
        }

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(QuietHandler):
            def do_POST(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                authorized = self.headers["authorization"] == f"Bearer {TOKEN}"
                status, answer = hub.answer(self.command, self.path, authorized, self._body())
                content = json.dumps(answer).encode()
                self.send(status, content, content_type="application/json")

            do_GET = do_PUT = do_POST

            def _body(self) -> bytes:
                if self.headers["transfer-encoding"] != "chunked":
                    return self.rfile.read(int(self.headers["content-length"] or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

        return Handler


def _mode(file: Json) -> Json:
    return {
        "path": file["path"],
        "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
        "shouldIgnore": False,
    }


def _check_front_matter(readme: str) -> tuple[int, Json]:
    """A part of what the Hub checks."""
    front_matter = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    declared = yaml.safe_load(front_matter[1]) if front_matter else {}
    base = declared.get("base_model")
    if base is not None and not HUB_ID.fullmatch(base):
        message = f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.'
        return 400, {"errors": [{"message": message}], "warnings": []}
    return 200, {"errors": [], "warnings": []}


@contextmanager
def serving() -> Iterator[HubServer]:
    hub = HubServer()
    try:
        yield hub
    finally:
        hub.close()
