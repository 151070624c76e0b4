"""Rewrite what an engine answers, whole or as a stream of events, on its way to the client."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from app.inference.usage import MAX_LINE_BYTES

Document = dict[str, Any]

TIMINGS = re.compile(rb',"timings":\{[^{}]*\}')
NO_FINGERPRINT = b'"system_fingerprint":"b0-unknown",'  # llama.cpp's, where it does not know itself
CHAT_ID = b'"id":"chatcmpl-'
COMPLETION_ID = b'"id":"cmpl-'
# An engine of another make may write what we do not know; that is passed on as it is.
UNREADABLE = (KeyError, IndexError, TypeError, AttributeError)


def trim(part: bytes, *, is_completion: bool) -> bytes:
    """Take out what is llama.cpp's own. In a text these quotes would be escaped."""
    if b'"timings"' in part:
        part = TIMINGS.sub(b"", part)
    part = part.replace(NO_FINGERPRINT, b"")
    return part.replace(CHAT_ID, COMPLETION_ID) if is_completion else part


class Rewriter:
    """Passes an answer on as it is. Others change each document, or each event of a stream."""

    def __init__(self, *, is_completion: bool = False) -> None:
        self._is_completion = is_completion

    def answer(self, content: bytes) -> bytes:
        return trim(content, is_completion=self._is_completion)

    async def stream(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in parts:
            yield trim(part, is_completion=self._is_completion)


class DocumentRewriter(Rewriter):
    """Reads what passes as JSON."""

    def rewrite(self, document: Document) -> None:
        """Change a whole answer in place."""
        raise NotImplementedError

    def rewrite_event(self, event: Document) -> list[Document]:
        """Return the events that the client gets in place of this one."""
        raise NotImplementedError

    def answer(self, content: bytes) -> bytes:
        content = super().answer(content)
        document = parse(content)
        if not _has_choices(document):
            return content
        try:
            self.rewrite(document)
        except UNREADABLE:
            return content
        return json.dumps(document).encode()

    async def stream(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        rest: list[bytes] = []
        num_rest = 0
        async for part in parts:
            *whole, last = part.split(b"\n")
            if whole:
                whole[0] = b"".join(rest) + whole[0]
                rest, num_rest = [], 0
                yield b"".join(self._line(line) for line in whole)
            rest.append(last)
            num_rest += len(last)
            if num_rest > MAX_LINE_BYTES:  # no event that we know
                yield b"".join(rest)
                rest, num_rest = [], 0
        if last := b"".join(rest):
            yield self._line(last)

    def _line(self, line: bytes) -> bytes:
        name, colon, data = line.partition(b":")
        event = parse(trim(data, is_completion=self._is_completion)) if name == b"data" else {}
        if not colon or not _has_choices(event):
            return line + b"\n"
        try:
            events = self.rewrite_event(event)
        except UNREADABLE:
            return line + b"\n"
        written = (json.dumps(each).encode() for each in events)
        return b"\n\n".join(b"data: " + each for each in written) + b"\n"


def parse(content: bytes) -> Document:
    """Return the object, empty where the content is none."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _has_choices(document: Document) -> bool:
    choices = document.get("choices")
    return isinstance(choices, list) and bool(choices)
