"""Hostile questions of one project while another project's streams run on the same engine.

`HOSTILE_QUESTIONS` and `HOSTILE_SEED` ask others.
"""

import os
import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import httpx

from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.hostile_questions import HELLO, hostile_questions

MODEL = "falqon-tiny"
NUM_QUESTIONS = int(os.environ.get("HOSTILE_QUESTIONS", "300"))
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
MOST_SECONDS = 20.0  # for an answer, or between two events of a stream
TOKENS = '[{"a:,'
# The model's answer is at fault: a pattern may take what is no JSON text, such as a quotation mark,
# and a token that was made likely may be taken where the grammar has ended.
UNFIT = ("does not match the expected", "empty grammar stack")


class Streams:
    """One project that streams an answer after the other until it is stopped."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.reasons: Counter[str] = Counter()
        self.longest_gap = 0.0
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.reasons[self._stream()] += 1
            except Exception as error:  # whatever it is, it is counted and fails the test
                self.reasons[repr(error)] += 1

    def _stream(self) -> str:
        client = self._tenant.client.with_options(timeout=2 * MOST_SECONDS, max_retries=0)
        reason = ""
        at = time.monotonic()
        for chunk in client.chat.completions.create(
            model=MODEL, messages=[HELLO], max_tokens=300, stream=True
        ):
            self.longest_gap = max(self.longest_gap, time.monotonic() - at)
            at = time.monotonic()
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
        return reason


def test_another_projects_streams_go_on(api: Api, tenant: Tenant) -> None:
    folder = str(api.settings.data_dir.resolve())
    attacker, other = Tenant(api), Tenant(api)
    assert _ask(attacker, {"messages": [HELLO], "max_tokens": 1})[0] == 200
    engine = processes("worker.inference.llama_cpp", folder)
    likely = _token_ids(tenant)
    rng = random.Random(SEED)
    statuses: Counter[int] = Counter()
    broken: list[dict[str, Any]] = []
    streams = Streams(other)
    try:
        for question in hostile_questions(NUM_QUESTIONS, SEED):
            if rng.random() < 0.5:  # what opens brackets, and goes on in them, is made likely
                question["logit_bias"] = {id_: rng.choice((20, 60, 100)) for id_ in likely}
            status, seconds = _ask(attacker, question)
            statuses[status] += 1
            is_failed = status >= 500 and not any(text in question["error"] for text in UNFIT)
            if seconds > MOST_SECONDS or is_failed:
                broken.append(question | {"status": status, "seconds": seconds})
    finally:
        streams.stop()
        attacker.http.close()
        other.http.close()
    sys.stderr.write(
        f"seed {SEED}: {dict(statuses)}; streams: {dict(streams.reasons)}, "
        f"longest gap {streams.longest_gap:.1f} s\n"
    )
    assert not broken, str(broken)[:4_000]
    assert processes("worker.inference.llama_cpp", folder) == engine
    assert set(streams.reasons) <= {"length", "stop"}, streams.reasons
    assert streams.longest_gap < MOST_SECONDS
    assert min(statuses[200], statuses[400]) > NUM_QUESTIONS / 10, statuses


def _ask(tenant: Tenant, question: dict[str, Any]) -> tuple[int, float]:
    """Return the status and the seconds; a client that waits in vain counts as 599."""
    started = time.monotonic()
    try:
        body = {"model": MODEL} | question
        answer = tenant.http.post("/v1/chat/completions", json=body, timeout=2 * MOST_SECONDS)
        if answer.status_code >= 500:
            question["error"] = answer.text[:500]
        return answer.status_code, time.monotonic() - started
    except httpx.TransportError as error:
        question["error"] = repr(error)
        return 599, time.monotonic() - started


def _token_ids(tenant: Tenant) -> list[str]:
    tokenizer = tenant.http.get(f"/v1/models/{MODEL}/artifacts/tokenizer.json").json()
    vocabulary = tokenizer["model"]["vocab"]
    return [str(vocabulary[token]) for token in TOKENS if token in vocabulary]
