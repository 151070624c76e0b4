"""Merge the streams of several engine responses into one stream of events."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import httpx
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.base.errors import ApiError
from app.inference.documents import choices_of, parse, strip
from app.inference.forms import AnswerForm
from app.inference.outbox import Outbox
from app.inference.proxy import Exchange, OpenAnswer, headers, run_all
from app.inference.questions import EngineRequest
from app.inference.refusals import CONNECTION_ERRORS, EngineError
from app.inference.rewriting import Rewriter, trim
from app.inference.turns import NOTED_EVERY_SECONDS
from app.inference.usage import Bill, usage_of

MAX_LINE_BYTES = 2**20  # bytes per event
CLIENT_READ_SECONDS = 60.0  # seconds without a read after which a client is disconnected
SHARED_FIELDS = ("id", "object", "created", "model")  # fields with the same value in each event

log = structlog.get_logger()


class AnswerStream(StreamingResponse):
    """Answers to the choices of a request, of which the engine has begun the first.

    The engine stops with it, also if it ends before the first event.
    """

    def __init__(
        self,
        exchange: Exchange,
        questions: Sequence[EngineRequest],
        first: OpenAnswer,
        bill: Bill,
        form: AnswerForm,
        rewriter: Rewriter | None = None,
    ) -> None:
        self._outbox = Outbox()
        super().__init__(self._outbox.read(), headers=headers("text/event-stream"))
        self._exchange = exchange
        self._questions = questions
        self._first = first
        self._bill = bill
        self._form = form
        self._rewriter = rewriter or Rewriter()
        self._shared: dict[str, Any] = {}  # fields of all events
        self.resources = AsyncExitStack()  # closed when it ends
        self.has_failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(CLIENT_READ_SECONDS):
                await send(message)

        relaying = asyncio.create_task(self._relay())
        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.info("disconnected a client that does not read")
        finally:
            relaying.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([relaying])
                await self._first.close()
                await self.resources.aclose()

    async def _relay(self) -> None:
        """Put the events of all answers into the outbox."""
        first, *others = self._questions
        self._outbox.add(self._form.begin())
        try:
            await run_all(
                [
                    partial(self._relay_answer, first, self._first),
                    *(partial(self._relay_later, question) for question in others),
                ]
            )
            await self._bill.settle()  # settled before the client can send its next request
            usage = self._exchange.tally.document(is_private=self._exchange.target.is_private)
            self._outbox.add(self._form.end(self._shared, usage))
        except CONNECTION_ERRORS as error:
            failure = await self._exchange.give_up(error)
            if not self._exchange.target.is_upstream:
                failure = EngineError("The engine ended before the answer was complete; try again.")
            self._fail(failure)
        except ApiError as error:
            log.warning("a stream has ended with an error", error=error.message)
            self._fail(error)
        except Exception:  # the top-level handler of this task
            log.exception("a stream was not relayed")
            self._fail(EngineError("The answer was not relayed; try again."))
        finally:
            self._outbox.close()

    def _fail(self, error: ApiError) -> None:
        self.has_failed = True
        self._outbox.add(self._form.failure(error))

    async def _relay_later(self, question: EngineRequest) -> None:
        turn = await self._exchange.take_turn()
        while self._outbox.is_full:  # no new answer begins for a client that does not read
            turn.release()
            await self._outbox.wait_for_room()
            turn = await self._exchange.take_turn()
        await self._relay_answer(question, await self._exchange.open(question, turn))

    async def _relay_answer(self, question: EngineRequest, opened: OpenAnswer) -> None:
        lines = Lines()
        try:
            async for part in opened.answer.aiter_raw():
                for line in lines.split(part):
                    self._outbox.add(self._event_of(question, line))
                while self._outbox.is_full:  # the engine generates on, independently of the reader
                    opened.turn.release()
                    with anyio.move_on_after(NOTED_EVERY_SECONDS):
                        await self._outbox.wait_for_room()
                    await self._exchange.note_use()
                await self._exchange.note_use()
        finally:
            await opened.close()

    def _event_of(self, question: EngineRequest, line: bytes) -> bytes:
        """Return a line of an answer as it goes to the client."""
        if line.startswith(b":"):  # a comment, which keeps connections open
            return line + b"\n\n"
        name, _, data = line.partition(b":")
        if name != b"data" or data.strip() == b"[DONE]":
            return b""
        event = parse(data)
        if "error" in event:
            raise self._error_of(event, data)
        choices = choices_of(event)
        if choices:
            self._exchange.tally.add_event(question)
        if usage := usage_of(event):
            self._exchange.tally.set_usage(question, usage)
        trim(event)
        self._exchange.target.name_as_asked(event)
        if not self._shared:
            self._shared = {name: event[name] for name in SHARED_FIELDS if name in event}
        if not choices:
            return b""
        own = {"choices": question.place(choices)}
        events = self._rewriter.rewrite_event(strip(event) | self._shared | own)
        return b"".join(map(self._form.event, events))

    def _error_of(self, event: dict[str, Any], raw: bytes) -> ApiError:
        """Return an error in the middle of a stream as one of ours."""
        error = event["error"]
        status = error.get("code") if isinstance(error, dict) else None
        answer = httpx.Response(status if isinstance(status, int) else 500)
        return self._exchange.target.refusal_of(answer, raw)


class Lines:
    """Splits a stream into lines, independently of the chunk boundaries."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []  # parts of a line that has not ended
        self._num_pending = 0

    def split(self, part: bytes) -> Iterator[bytes]:
        """Return the lines that end in this chunk. Raises `EngineError` for a line without end."""
        first, newline, rest = part.partition(b"\n")
        self._pending.append(first)
        self._num_pending += len(first)
        if self._num_pending > MAX_LINE_BYTES:
            raise EngineError(f"The engine has sent an event of more than {MAX_LINE_BYTES} bytes.")
        if not newline:
            return
        yield b"".join(self._pending).rstrip(b"\r")
        *whole, last = rest.split(b"\n")
        yield from (line.rstrip(b"\r") for line in whole)
        self._pending = [last]
        self._num_pending = len(last)
