"""What the proxy owes the engine."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from starlette.types import Message

from app.inference.proxy import AnswerStream, Calls
from app.inference.rewriting import Rewriter
from app.inference.usage import UsageStream


class Tokens(httpx.AsyncByteStream):
    """An engine's answer that has not begun yet."""

    is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        self.is_closed = True


def test_who_goes_away_before_the_first_byte_ends_the_answer() -> None:
    tokens = Tokens()
    answer = httpx.Response(200, stream=tokens)
    calls = Calls(lambda: None, lambda: None, lambda _num_tokens: None)
    stream = AnswerStream(answer, UsageStream(is_hidden=True), calls, Rewriter())

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        await asyncio.Event().wait()  # nobody reads

    asyncio.run(stream({"type": "http"}, receive, send))
    assert tokens.is_closed
