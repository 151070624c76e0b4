"""Server-sent events, as the service streams them."""

from collections.abc import Iterator
from typing import NamedTuple

DONE = "[DONE]"


class Message(NamedTuple):
    seq: int | None
    data: str


def read_messages(lines: Iterator[str]) -> Iterator[Message | None]:
    """Yield the messages; None for a comment, which is how the service says that it is there."""
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
            seq = None
            data = []
