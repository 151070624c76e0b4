"""The events of a job, each once and in order, for as long as it takes; a connection that breaks is
taken up where it broke.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from app.client.api import Api, Json, segment
from app.client.errors import ApiUnavailable, NoConnection
from app.client.server_sent_events import DONE, read_messages

STREAM_TIMEOUT_SECONDS = 45.0  # The service sends a comment every 15.
RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
RECONNECT_TIMEOUT_SECONDS = 600.0  # A restart, an update, a night train's tunnel.


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke and is tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened, and the connection stands."""


def in_order(events: Iterator[Json | Lost | Tick]) -> Iterator[Json | Lost | Tick]:
    """Yield what tells of a step behind that step: a checkpoint is told of at once, and steps in
    batches.
    """
    newest_step = 0
    waiting: list[Json] = []
    for event in events:
        if not isinstance(event, dict):
            yield event
            continue
        step = (event.get("data") or {}).get("step", 0)
        if event["type"] != "metrics" and step > newest_step:
            waiting.append(event)
            continue
        yield event
        if event["type"] == "metrics":
            newest_step = max(newest_step, step)
            yield from (each for each in waiting if each["data"]["step"] <= newest_step)
            waiting = [each for each in waiting if each["data"]["step"] > newest_step]
    yield from waiting


def follow(api: Api, job_id: str) -> Iterator[Json | Lost | Tick]:
    """Ends when the job has. Raises `NoConnection` after `RECONNECT_TIMEOUT_SECONDS` without an
    answer.
    """
    last = 0
    failures = 0
    heard_at = time.monotonic()
    while True:
        reason = "The service ended the connection."
        try:
            headers = {"accept": "text/event-stream"} | (
                {"last-event-id": str(last)} if last else {}
            )
            path = f"/fine_tuning/jobs/{segment(job_id)}/stream"
            with api.stream(
                path, headers=headers, silence_seconds=STREAM_TIMEOUT_SECONDS
            ) as response:
                for message in read_messages(response.iter_bytes()):
                    failures = 0
                    heard_at = time.monotonic()
                    if message is None:
                        yield Tick()
                    elif message.data == DONE:
                        return
                    elif message.seq is None or message.seq > last:
                        last = message.seq or last
                        yield json.loads(message.data)
        except httpx.TransportError as error:
            reason = str(api.unreachable(error))
        except ApiUnavailable as error:
            reason = error.message
        if time.monotonic() - heard_at > RECONNECT_TIMEOUT_SECONDS:
            raise NoConnection(reason, "The job itself goes on.")
        yield Lost(reason)
        time.sleep(RETRY_DELAYS_SECONDS[min(failures, len(RETRY_DELAYS_SECONDS) - 1)])
        failures += 1
