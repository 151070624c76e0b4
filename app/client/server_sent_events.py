"""Server-sent events, as the service streams them."""

from collections.abc import Iterator
from dataclasses import dataclass

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class StreamMessage:
    seq: int | None
    data: str


def read_messages(chunks: Iterator[bytes]) -> Iterator[StreamMessage | None]:
    """Yield the messages; None for a comment, which is how the service says that it is there."""
    seq: int | None = None
    data: list[str] = []
    for line in _lines(chunks):
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
            yield StreamMessage(seq, "\n".join(data))
            seq = None
            data = []


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield the lines. A separator that only Unicode knows, as U+2028, is a character of the data,
    so neither `str.splitlines` nor the HTTP library's own lines will do.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
