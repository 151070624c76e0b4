"""CUDA's streams and events on a machine without a card: copies are kept in the order of their
streams, and carried out when a test lets a stream go on, as far as what it waits for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class Stream:
    """`done` counts the entries that were carried out."""

    def __init__(self, _device: torch.device) -> None:
        self.entries: list[Callable[[], bool]] = []
        self.done = 0

    def wait_event(self, event: "Event") -> None:
        stream, position = event.stream, event.position
        self.entries.append(lambda: stream is None or stream.done > position)

    def wait_stream(self, stream: "Stream") -> None:
        event = Event()
        event.record(stream)
        self.wait_event(event)

    def go_on(self, num_entries: int | None = None) -> None:
        """Carry out the next entries, up to one that has to wait."""
        end = len(self.entries) if num_entries is None else self.done + num_entries
        while self.done < min(end, len(self.entries)) and self.entries[self.done]():
            self.done += 1

    def finish(self) -> None:
        self.go_on()
        assert self.done == len(self.entries), "it waits for what never comes"


class Event:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.position = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.position = stream, len(stream.entries)
        stream.entries.append(lambda: True)


class Card(TorchDispatchMode):
    """`program` is the stream that is current at first, `others` those that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.program = Stream(torch.device("cpu"))
        self.others: list[Stream] = []
        self._current = self.program

    def new_stream(self, device: torch.device) -> Stream:
        self.others.append(Stream(device))
        return self.others[-1]

    @contextmanager
    def on_stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    def current_stream(self, _device: torch.device) -> Stream:
        return self._current

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.ops.aten.copy_.default:
            return func(*args, **(kwargs or {}))

        def copy() -> bool:
            with _disable_current_modes():
                func(*args)
            return True

        self._current.entries.append(copy)
        return args[0]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(torch.cuda, "Stream", card.new_stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", card.on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", card.current_stream)
    return card
