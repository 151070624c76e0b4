"""The events of a job, each once and in order, for as long as it takes; a connection that breaks is taken up where it broke."""

import json
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx

from app.client.api import Api, Json, segment
from app.client.errors import NoConnection, Unavailable

DONE = "[DONE]"
SILENCE_SECONDS = 45.0  # the service sends a comment every 15
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
GIVE_UP_SECONDS = 600.0  # a restart, an update, a night train's tunnel


class Lost(NamedTuple):
    """The connection broke and is tried again."""

    reason: str


class Tick(NamedTuple):
    """Nothing happened, and the connection stands."""


class Message(NamedTuple):
    seq: int | None
    data: str


def follow(api: Api, job_id: str) -> Iterator[Json | Lost | Tick]:
    """Ends when the job has. Raises `NoConnection` after `GIVE_UP_SECONDS` without an answer."""
    last, failures, heard_at = 0, 0, time.monotonic()
    while True:
        reason = "The service ended the connection."
        try:
            headers = {"accept": "text/event-stream"} | ({"last-event-id": str(last)} if last else {})
            path = f"/fine_tuning/jobs/{segment(job_id)}/stream"
            with api.stream(path, headers=headers, silence_seconds=SILENCE_SECONDS) as response:
                for message in _messages(response.iter_lines()):
                    failures, heard_at = 0, time.monotonic()
                    if message is None:
                        yield Tick()
                    elif message.data == DONE:
                        return
                    elif message.seq is None or message.seq > last:
                        last = message.seq or last
                        yield json.loads(message.data)
        except httpx.TransportError as error:
            reason = str(api.unreachable(error))
        except Unavailable as error:
            reason = error.message
        if time.monotonic() - heard_at > GIVE_UP_SECONDS:
            raise NoConnection(reason, "The job itself goes on.")
        yield Lost(reason)
        time.sleep(PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)])
        failures += 1


def _messages(lines: Iterator[str]) -> Iterator[Message | None]:
    """Server-sent events; None for a comment, which is how the service says that it is there."""
    seq: int | None = None
    data: list[str] = []
    for line in lines:
        if line.startswith(":"):
            yield None
        elif line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "id" and value.isdecimal():
                seq = int(value)
        elif data:
            yield Message(seq, "\n".join(data))
            seq, data = None, []
