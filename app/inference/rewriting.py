"""Rewrite what an engine answers, whole or event by event, on its way to the client."""

import json
from collections.abc import AsyncIterator
from typing import Any

from app.inference.usage import MAX_LINE_BYTES

Document = dict[str, Any]

UNKNOWN_FINGERPRINT = "b0-unknown"  # llama.cpp's, where it does not know itself
CHAT_ID = "chatcmpl-"
COMPLETION_ID = "cmpl-"
# An engine of another make may write what we do not know; that is passed on as it is.
UNREADABLE = (KeyError, IndexError, TypeError, AttributeError)


class Rewriter:
    """Takes out what is llama.cpp's own. Others change more."""

    def rewrite(self, document: Document) -> None:
        """Change a whole answer in place."""
        self._trim(document)

    def rewrite_event(self, event: Document) -> list[Document]:
        """Return the events that the client gets in place of this one, which has choices."""
        self._trim(event)
        return [event]

    def _trim(self, document: Document) -> None:
        document.pop("timings", None)
        if document.get("system_fingerprint") == UNKNOWN_FINGERPRINT:
            del document["system_fingerprint"]
        identifier = document.get("id")
        is_completion = document.get("object") == "text_completion"
        if is_completion and isinstance(identifier, str) and identifier.startswith(CHAT_ID):
            document["id"] = COMPLETION_ID + identifier.removeprefix(CHAT_ID)


def rewrite_answer(rewriter: Rewriter, content: bytes) -> bytes:
    document = _parse(content)
    if not _has_choices(document):
        return content
    try:
        rewriter.rewrite(document)
    except UNREADABLE:
        return content
    return json.dumps(document).encode()


async def rewrite_stream(rewriter: Rewriter, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Rewrite the events, wherever the parts of the stream end."""
    rest: list[bytes] = []
    num_rest = 0
    async for part in parts:
        *whole, last = part.split(b"\n")
        if whole:
            whole[0] = b"".join(rest) + whole[0]
            rest, num_rest = [], 0
            yield b"".join(_rewrite_line(rewriter, line) for line in whole)
        rest.append(last)
        num_rest += len(last)
        if num_rest > MAX_LINE_BYTES:  # no event that we know
            yield b"".join(rest)
            rest, num_rest = [], 0
    if last := b"".join(rest):
        yield _rewrite_line(rewriter, last)


def _rewrite_line(rewriter: Rewriter, line: bytes) -> bytes:
    name, _, data = line.partition(b":")
    event = _parse(data) if name == b"data" else {}
    if not _has_choices(event):
        return line + b"\n"
    try:
        events = rewriter.rewrite_event(event)
    except UNREADABLE:
        return line + b"\n"
    return b"\n\n".join(b"data: " + json.dumps(each).encode() for each in events) + b"\n"


def _parse(content: bytes) -> Document:
    """Return the object, empty where the content is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _has_choices(document: Document) -> bool:
    choices = document.get("choices")
    return isinstance(choices, list) and bool(choices)
