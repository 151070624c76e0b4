"""An account at OpenAI, or at what speaks as it does. Nothing there is ever changed."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from typing import BinaryIO

import httpx

from app.client.api import Advice, Api, Json, segment
from app.client.connection import Connection, readable_key
from app.client.errors import ApiUnavailable, ClientError, Misused, NoSuchObject, Refused
from app.client.move.objects import OriginFile

OPENAI = "https://api.openai.com/v1"
SECRET = re.compile(r"sk-[\w*.-]+")  # OpenAI repeats a refused key in part
READ_TIMEOUT_SECONDS = 60.0
OBJECTS_PER_PAGE = 100
MAX_PAGES = 10_000
SCOPE_HEADERS = {"OPENAI_ORG_ID": "openai-organization", "OPENAI_PROJECT_ID": "openai-project"}


class Account(Api):
    repeat_after_seconds = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    max_wait_seconds = 120.0
    advice = Advice(
        silent="Is the account's address right (--from-url)?",
        other_service="Is --from-url the address of an API that speaks as OpenAI's does?",
        wrong_key="Set OPENAI_API_KEY to a key that may read the account's files and jobs.",
    )

    def __init__(self, base_url: str, api_key: str) -> None:
        scope = {
            header: os.environ[variable]
            for variable, header in SCOPE_HEADERS.items()
            if os.environ.get(variable)
        }
        super().__init__(Connection(base_url.rstrip("/"), api_key), scope)
        self._api_key = readable_key(api_key)
        self._http.follow_redirects = False  # Prompts go to the named address only.

    @classmethod
    def from_environment(cls, base_url: str) -> "Account":
        api_key = os.environ.get("OPENAI_API_KEY")
        if not api_key:
            raise Misused(
                "OPENAI_API_KEY is not set.",
                "Set it to a key of the account to move; it is sent to that account only.",
            )
        return cls(base_url, api_key)

    def list_all(self, path: str, **query: str) -> Iterator[Json]:
        """Yield every object of a list, the newest first."""
        after = None
        for _ in range(MAX_PAGES):
            page = self.get(
                path, {**query, "limit": OBJECTS_PER_PAGE, "after": after}, repeatable=True
            )
            objects = page.get("data") or []
            yield from objects
            if not objects or not page.get("has_more"):
                return
            after = objects[-1]["id"]
        raise Refused(f"{path} there has no end after {MAX_PAGES} pages.")

    def find(self, path: str) -> Json | None:
        """Return an object; None where there is none."""
        try:
            return self.get(path, repeatable=True)
        except NoSuchObject:
            return None

    def download(self, file: OriginFile, target: BinaryIO) -> str:
        """Write a file's bytes to `target` and return their sha256; a broken connection begins
        again.
        """
        for pause in (*self.repeat_after_seconds, None):
            wait_seconds = 0.0
            try:
                return self._download(file, target)
            except httpx.TransportError as error:
                failure: ClientError = self.unreachable(error)
            except ApiUnavailable as error:
                failure, wait_seconds = error, error.wait_seconds
            if pause is None or wait_seconds > self.max_wait_seconds:
                raise failure
            time.sleep(max(pause, wait_seconds))
        raise AssertionError("the last round returns or raises")

    def _download(self, file: OriginFile, target: BinaryIO) -> str:
        target.seek(0)
        target.truncate()
        digest = hashlib.sha256()
        left = file.bytes
        path = f"/files/{segment(file.id)}/content"
        with self.stream(path, headers={}, silence_seconds=READ_TIMEOUT_SECONDS) as response:
            for chunk in response.iter_bytes():
                left -= len(chunk)
                if left < 0:
                    raise Refused(f"It has more than the {file.bytes} bytes that its object says.")
                digest.update(chunk)
                target.write(chunk)
        if left > 0:
            raise ApiUnavailable(f"The answer ended {left} bytes before its time.")
        return digest.hexdigest()

    def _refusal(self, response: httpx.Response) -> ClientError:
        error = super()._refusal(response)
        error.message = self._without_secrets(error.message)
        error.hint = self._without_secrets(error.hint)
        error.body = {**error.body, "message": self._without_secrets(str(error.body["message"]))}
        return error

    def _without_secrets(self, text: str) -> str:
        return SECRET.sub("sk-…", text.replace(self._api_key, "sk-…"))
