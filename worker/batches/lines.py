"""Lines of a batch's file: a request each, with an id that its answer carries."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.models.batch import MAX_BATCH_LINES, BatchFault
from falqon_core.records.jsonl import BadRecord, decode_line, lines_of_file, parse_line

MAX_LINE_BYTES = 2**20  # as in one request to the API, and so is the next one
MAX_VALUES = 20_000
MAX_CUSTOM_ID = 512
MAX_FAULTS = 50  # that a batch tells
METHOD = "POST"
DIGEST_BYTES = 16


class LineFault(Exception):
    """A line that is no request."""

    def __init__(self, code: str, message: str, line: int, param: str | None = None) -> None:
        super().__init__(message)
        self.fault = BatchFault(code=code, message=message, line=line, param=param)


@dataclass(frozen=True, slots=True)
class BatchLine:
    number: int  # from 1
    custom_id: str
    model: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """`model`: of all requests. With faults, none is sent."""

    num_lines: int
    model: str | None
    faults: list[BatchFault]


def check_file(path: Path, endpoint: str, heartbeat: Callable[[], None]) -> CheckedFile:
    """Read the whole file once. Each custom_id is kept as a digest."""
    check = _Check(endpoint)
    for number, raw in enumerate(lines_of_file(path), 1):
        heartbeat()
        check.add(raw, number)
        if len(check.faults) >= MAX_FAULTS or check.num_lines > MAX_BATCH_LINES:
            break
    return check.finish()


def read_lines(path: Path, endpoint: str, heartbeat: Callable[[], None]) -> Iterator[BatchLine]:
    """Yield the lines of a file that was checked."""
    for number, raw in enumerate(lines_of_file(path), 1):
        heartbeat()
        yield parse(raw, number, endpoint)


def parse(raw: bytes, number: int, endpoint: str) -> BatchLine:
    """Return the request of a line. Raises `LineFault`."""
    if len(raw) > MAX_LINE_BYTES:
        message = f"the line has more than {MAX_LINE_BYTES} bytes, the limit for one request"
        raise LineFault("request_too_large", message, number)
    try:
        line = parse_line(decode_line(raw, number), number, MAX_VALUES)
    except BadRecord as error:
        message = f"{error.error.message}; {error.error.advice}"
        raise LineFault("invalid_json_line", message, number) from None
    if not isinstance(line, dict):
        raise LineFault("invalid_json_line", "write one JSON object a line", number)
    custom_id = _text(line, "custom_id", number)
    if line.get("method") != METHOD:
        raise LineFault("invalid_method", f"method: write {METHOD}", number, "method")
    if line.get("url") != endpoint:
        message = f"url: it must be the batch's endpoint, {endpoint}"
        raise LineFault("invalid_url", message, number, "url")
    body = line.get("body")
    if not isinstance(body, dict):
        raise LineFault("invalid_value", "body: write the request as an object", number, "body")
    return BatchLine(number, custom_id, _text(body, "model", number, "body."), body)


def _text(fields: dict[str, Any], name: str, number: int, prefix: str = "") -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CUSTOM_ID:
        message = f"{prefix}{name}: write a text of 1 to {MAX_CUSTOM_ID} characters"
        code = "invalid_value" if name in fields else "missing_required_parameter"
        raise LineFault(code, message, number, f"{prefix}{name}")
    return value


class _Check:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._seen: set[bytes] = set()
        self._model: str | None = None
        self.num_lines = 0
        self.faults: list[BatchFault] = []

    def add(self, raw: bytes, number: int) -> None:
        self.num_lines += 1
        try:
            self._check_with_others(parse(raw, number, self._endpoint))
        except LineFault as error:
            self.faults.append(error.fault)

    def finish(self) -> CheckedFile:
        if not self.num_lines:
            self.faults.append(BatchFault(code="empty_file", message="The file has no requests."))
        if self.num_lines > MAX_BATCH_LINES:
            message = f"The file has more than {MAX_BATCH_LINES:,} requests; split it."
            self.faults.append(BatchFault(code="too_many_requests", message=message))
        return CheckedFile(self.num_lines, self._model, self.faults)

    def _check_with_others(self, line: BatchLine) -> None:
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=DIGEST_BYTES).digest()
        if digest in self._seen:
            message = f"custom_id: '{line.custom_id[:64]}' stands in an earlier line, too"
            raise LineFault("duplicate_custom_id", message, line.number, "custom_id")
        self._seen.add(digest)
        self._model = self._model or line.model
        if line.model != self._model:
            message = f"body.model: all requests of a batch have one model, here '{self._model}'"
            raise LineFault("mismatched_model", message, line.number, "body.model")
