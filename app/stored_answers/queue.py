"""Answers on their way to the database, in the process that gave them."""

from dataclasses import dataclass

import anyio

from app.base import counters
from app.models import AnswerKind

MAX_ANSWERS = 10_000
MAX_BYTES = 64 * 2**20
MAX_ANSWER_BYTES = 8 * 2**20  # with its question; more is no answer to learn from
ANSWERS_AT_ONCE = 100
BYTES_AT_ONCE = 8 * 2**20
WRITTEN_WITHIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """Answer that a client has got, with its question; both as JSON."""

    id: str  # without its prefix
    kind: AnswerKind
    project_id: str
    key_id: str
    model: str
    metadata: dict[str, str]
    question: str
    document: str

    @property
    def num_bytes(self) -> int:
        return len(self.question) + len(self.document)


class AnswerQueue:
    """Bounded queue that never makes an answer wait: it counts what it cannot take. An answer stays
    in it until it is written.
    """

    def __init__(self) -> None:
        self._answers: dict[str, NewAnswer] = {}
        self._num_bytes = 0
        self._added = anyio.Event()
        self._removed = anyio.Event()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: NewAnswer) -> None:
        if answer.num_bytes > MAX_ANSWER_BYTES:
            counters.ANSWERS_NOT_STORED.labels("too_large").inc()
            return
        is_full = self._num_bytes + answer.num_bytes > MAX_BYTES
        if is_full or len(self._answers) >= MAX_ANSWERS:
            counters.ANSWERS_NOT_STORED.labels("queue_full").inc()
            return
        self._answers[answer.id] = answer
        self._num_bytes += answer.num_bytes
        self._added.set()

    def oldest(self) -> list[NewAnswer]:
        """Return a few answers, which stay in the queue."""
        answers: list[NewAnswer] = []
        num_bytes = 0
        for answer in self._answers.values():
            num_bytes += answer.num_bytes
            if answers and (num_bytes > BYTES_AT_ONCE or len(answers) == ANSWERS_AT_ONCE):
                break
            answers.append(answer)
        return answers

    def remove(self, answers: list[NewAnswer]) -> None:
        for answer in answers:
            del self._answers[answer.id]
            self._num_bytes -= answer.num_bytes
        self._removed.set()
        self._removed = anyio.Event()

    async def wait_for_answers(self) -> None:
        while not self._answers:
            self._added = anyio.Event()
            await self._added.wait()

    async def wait_until_written(self, answer_id: str) -> None:
        """Wait a moment for an answer that this process has given, so that its client finds it."""
        with anyio.move_on_after(WRITTEN_WITHIN_SECONDS):
            while answer_id in self._answers:
                await self._removed.wait()
