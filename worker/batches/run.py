"""The requests of a batch that have no answer yet: a few at a time, each answer kept soon."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import httpx
import structlog

from app.auth.rate_limit import RateLimiter
from app.base.errors import ApiError, InvalidRequest
from app.batches.repository import LineAnswer
from app.inference.refusals import EngineError
from app.models import Batch
from worker.batches.asking import BatchAsker
from worker.batches.engines import BatchEngines
from worker.batches.lines import BatchLine
from worker.batches.requests import answered, parse_request, refused
from worker.context import WorkerContext

POLL_SECONDS = 0.2
KEPT_EVERY_SECONDS = 1.0
MAX_ANSWER_CHARACTERS = 8 * 2**20
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0  # as the API waits
BUCKET = "batches:"  # of a key, as large as that of its other requests

End = Literal["completed", "expired", "cancelled"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """Answers that are not kept yet, and the figures of this attempt in all."""

    answers: list[LineAnswer]
    num_completed: int
    num_failed: int
    seconds: float
    input_tokens: int
    output_tokens: int
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class BatchHooks:
    """Calls of a run, each of which may raise to give up. `keep` returns whether the answers are
    kept; `read_end` the reason to stop, if there is one.
    """

    heartbeat: Callable[[], None]
    keep: Callable[[Progress], bool]
    read_end: Callable[[], End | None]


def ask_all(
    context: WorkerContext,
    batch: Batch,
    lines: Iterator[BatchLine],
    limiter: RateLimiter,
    hooks: BatchHooks,
) -> End:
    """Send the requests of all lines; return the reason for the end."""

    async def run() -> End:
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # An engine may close an idle connection while we send.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            engines = BatchEngines(context, batch.project_id)
            asker = BatchAsker(client, engines, context.database, batch.project_id)
            return await _Run(batch, lines, limiter, hooks, engines, asker).finish()

    return asyncio.run(run())


class _Run:
    def __init__(
        self,
        batch: Batch,
        lines: Iterator[BatchLine],
        limiter: RateLimiter,
        hooks: BatchHooks,
        engines: BatchEngines,
        asker: BatchAsker,
    ) -> None:
        self._batch = batch
        self._lines = lines
        self._limiter = limiter
        self._hooks = hooks
        self._engines = engines
        self._asker = asker
        self._answers: list[LineAnswer] = []
        self._pending: set[asyncio.Task[None]] = set()
        self._num_answers = {False: 0, True: 0}  # by whether they have failed
        self._num_bytes = 0
        self._num_charged = 0  # tokens
        self._is_read = False  # no line is left
        self._resume_at = 0.0  # when the key has tokens again

    async def finish(self) -> End:
        try:
            end = await self._ask_until_end()
        finally:
            for task in self._pending:
                task.cancel()
            await asyncio.gather(*self._pending, return_exceptions=True)
            is_kept = self._keep()
        while not is_kept:
            await asyncio.sleep(POLL_SECONDS)
            self._hooks.heartbeat()
            is_kept = self._keep()
        return end

    async def _ask_until_end(self) -> End:
        kept_at = time.monotonic()
        end = self._hooks.read_end()
        while end is None:
            self._fill()
            if self._is_read and not self._pending:
                return "completed"
            await self._wait()
            self._hooks.heartbeat()
            if time.monotonic() > kept_at + KEPT_EVERY_SECONDS:
                kept_at = time.monotonic()
                self._keep()
                self._engines.note_uses()
                end = self._hooks.read_end()
        return end

    def _fill(self) -> None:
        """Begin as many requests as may be out."""
        while (
            not self._is_read
            and time.monotonic() >= self._resume_at
            and len(self._pending) < self._engines.num_at_once
        ):
            line = next(self._lines, None)
            if line is None:
                self._is_read = True
            else:
                self._pending.add(asyncio.create_task(self._answer(line)))

    async def _wait(self) -> None:
        if not self._pending:
            await asyncio.sleep(POLL_SECONDS)
            return
        done, self._pending = await asyncio.wait(
            self._pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        if done:
            self._charge()

    async def _answer(self, line: BatchLine) -> None:
        try:
            content, has_failed = await self._content_of(line), False
        except ApiError as error:
            content, has_failed = refused(line.custom_id, error), True
        except Exception:  # the top-level handler of a line: it must not end the others
            log.exception("a line of a batch failed", batch=self._batch.id, line=line.number)
            failure = EngineError("The engine's response could not be read.")
            content, has_failed = refused(line.custom_id, failure), True
        self._num_answers[has_failed] += 1
        self._num_bytes += len(content)
        self._answers.append(LineAnswer(self._batch.id, line.number, has_failed, content))

    async def _content_of(self, line: BatchLine) -> str:
        request = parse_request(self._batch.endpoint, line.body)
        try:
            document = await self._asker.ask(request.chat)
        except InvalidRequest as error:
            raise request.rename(error) from None
        content = answered(line.custom_id, request.tell(document))
        if len(content) > MAX_ANSWER_CHARACTERS:
            message = f"The answer has more than {MAX_ANSWER_CHARACTERS:,} characters."
            raise EngineError(message, code="answer_too_large")
        return content

    def _charge(self) -> None:
        """Count the tokens, and wait with the next request while the key has none left."""
        num_tokens = self._asker.input_tokens + self._asker.output_tokens
        rate = self._limiter.use_tokens(
            f"{BUCKET}{self._batch.key_id}", num_tokens - self._num_charged
        )
        self._num_charged = num_tokens
        if rate is not None and rate.wait_seconds:
            self._resume_at = time.monotonic() + rate.wait_seconds

    def _keep(self) -> bool:
        asker = self._asker
        progress = Progress(
            self._answers,
            num_completed=self._num_answers[False],
            num_failed=self._num_answers[True],
            seconds=asker.seconds,
            input_tokens=asker.input_tokens,
            output_tokens=asker.output_tokens,
            answer_bytes=self._num_bytes,
        )
        is_kept = self._hooks.keep(progress)
        if is_kept:
            self._answers = []
        return is_kept
