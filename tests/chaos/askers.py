"""Clients that ask a model all the time, and what they were answered. Each project has a voice: the
one letter that its answers consist of, or the answer of its own model. It has a canary in its
prompts, too. Neither may turn up elsewhere.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import httpx

from app.base.ids import new_id
from app.keys.service import add_key
from app.models import Project, Scope
from tests.support.backend import Backend

PATH = "/v1/chat/completions"
MAX_TOKENS = 100  # four answers at once fit the context, and fifty end in time on a busy machine
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.2  # sooner than `retry-after` asks for: these are impatient
DATA, DONE = "data: ", "[DONE]"


class Voice(Protocol):
    """A project as its answers show it."""

    @property
    def canary(self) -> str: ...
    @property
    def key(self) -> str: ...
    def question(self) -> dict[str, object]: ...
    def may_say(self, text: str) -> bool:
        """Return whether this is the beginning of an answer of its own, or all of one."""


class LetterVoice(NamedTuple):
    """One letter, which its questions make the only one."""

    letter: str
    token_id: int
    canary: str
    key: str

    def question(self) -> dict[str, object]:
        bias = {str(self.token_id): 100}
        return {"model": "falqon-tiny", "max_tokens": MAX_TOKENS, "logit_bias": bias}

    def may_say(self, text: str) -> bool:
        return set(text) <= {self.letter}


class ModelVoice(NamedTuple):
    """The most probable answer of a model to the canary."""

    model: str
    answer: str
    num_tokens: int
    canary: str
    key: str

    def question(self) -> dict[str, object]:
        return {"model": self.model, "max_tokens": self.num_tokens, "temperature": 0}

    def may_say(self, text: str) -> bool:
        return self.answer.startswith(text)


def add_project(backend: Backend, name: str) -> tuple[str, str]:
    """Return the id of a new project, and a key to it."""
    project = Project(id=new_id("proj_"), name=name)
    with backend.database.transaction() as session:
        session.add(project)
        session.flush()
        return project.id, add_key(session, project.id, "chaos", Scope.READ)[1]


def add_letters(backend: Backend, vocabulary: dict[str, int], letters: str) -> list[LetterVoice]:
    voices = []
    for letter in letters:
        _, key = add_project(backend, f"voice {letter}")
        canary = new_id(f"canary-{letter}-")
        voices.append(LetterVoice(letter, vocabulary[letter], canary, key))
    return voices


class Asker(threading.Thread):
    """Asks one question after the other, until it is to end."""

    def __init__(self, url: str, voice: Voice, voices: Sequence[Voice]) -> None:
        super().__init__(daemon=True)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._url = url
        self._voice = voice
        self._canaries = [voice.canary for voice in voices]
        self._ending = threading.Event()

    def end(self) -> None:
        self._ending.set()

    def run(self) -> None:
        while not self._ending.is_set():
            if self.ask() != "answered":
                self._ending.wait(PAUSE_SECONDS)

    def ask(self) -> str:
        """Return what came of one question."""
        lines: list[str] = []
        try:
            with httpx.stream("POST", f"{self._url}{PATH}", **self._question()) as answer:
                lines.extend(answer.iter_lines())
            outcome = self._judge(answer.status_code, lines)
        except httpx.TransportError:
            outcome = "broken"
        if any(canary in line for line in lines for canary in self._canaries):
            self.faults.append(f"a prompt in {lines}")
        self.counts[outcome] += 1
        return outcome

    def _question(self) -> dict[str, object]:
        messages = [{"role": "user", "content": self._voice.canary}]
        question = self._voice.question() | {"messages": messages, "stream": True}
        headers = {"authorization": f"Bearer {self._voice.key}"}
        return {"json": question, "headers": headers, "timeout": PATIENCE_SECONDS}

    def _judge(self, status: int, lines: list[str]) -> str:
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return "refused"
        if status != httpx.codes.OK:
            self.faults.append(f"{status}: {lines}")
            return "failed"
        *events, last = [line.removeprefix(DATA) for line in lines if line]
        if not self._voice.may_say("".join(_text_of(event) for event in events)):
            self.faults.append(f"not as {self._voice} would say: {events}")
        if last == DONE:
            return "answered"
        if "error" not in json.loads(last):
            self.faults.append(f"ended without a word: {last}")
        return "cut off"


def _text_of(event: str) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(event)["choices"])


@contextmanager
def asking(askers: Sequence[Asker]) -> Iterator[None]:
    for asker in askers:
        asker.start()
    try:
        yield
    finally:
        for asker in askers:
            asker.end()
        for asker in askers:
            asker.join(PATIENCE_SECONDS)
