"""Questions to an engine, or to what stands before it, at little cost to who asks: each on a
connection of its own.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.api.connection import UnexpectedAnswer

PATH = "/v1/chat/completions"
TOKEN = b'"delta":{'
BODY = b"data: "
OK = b"HTTP/1.1 200 "
LAST_CHUNK = b"0\r\n\r\n"
READ_BYTES = 2**16
ENDS = ("0", "1", "2")  # the tokens that end an answer of either model


@dataclass(frozen=True, slots=True)
class Door:
    """Where a model is asked, and as whom."""

    address: str
    key: str
    stores: bool = False  # each question says `store`
    adapter: int | None = None  # asked for by each question, where one process has several


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    first_seconds: float  # to the first byte of its text
    num_tokens: int


class Stream:
    """One answer, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._text = b""

    @classmethod
    async def open(cls, door: Door, model: str, max_tokens: int) -> "Stream":
        """Return it once its first token is there."""
        url = urlsplit(door.address)
        stream = cls(*await asyncio.open_connection(url.hostname, url.port))
        stream._writer.write(_request(door, model, max_tokens))
        while BODY not in stream._text:
            stream._text += await stream._read_some()
            if not OK.startswith(stream._text[: len(OK)]):
                raise UnexpectedAnswer(stream._text.decode(errors="replace"))
        return stream

    async def read(self) -> int:
        """Read to the end. Returns the number of tokens."""
        num_tokens = self._text.count(TOKEN)
        async for text in self.parts():
            num_tokens += text.count(TOKEN)
        return num_tokens

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield what comes, each with an end of the part before that is shorter than a token."""
        while not self._text.endswith(LAST_CHUNK):
            self._text = self._text[-len(TOKEN) + 1 :] + await self._read_some()
            yield self._text
        self.close()

    async def _read_some(self) -> bytes:
        part = await self._reader.read(READ_BYTES)
        if not part:
            raise UnexpectedAnswer(f"no end of {self._text.decode(errors='replace')}")
        return part

    def close(self) -> None:
        self._writer.close()


async def ask(door: Door, model: str, max_tokens: int) -> TimedAnswer:
    started = time.perf_counter()
    stream = await Stream.open(door, model, max_tokens)
    first_seconds = time.perf_counter() - started
    return TimedAnswer(first_seconds, await stream.read())


def _request(door: Door, model: str, max_tokens: int) -> bytes:
    question = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": max_tokens,
        "stream": True,
        "temperature": 0,
        "logit_bias": dict.fromkeys(ENDS, -100),
    }
    if door.stores:
        question["store"] = True
    if door.adapter is not None:
        question["lora"] = [{"id": door.adapter, "scale": 1.0}]
    body = json.dumps(question).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {door.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
