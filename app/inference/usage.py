"""What an answer took, in the engine's own words."""

import json

MAX_LINE_BYTES = 2**20  # of an event; a longer one is passed on as it comes
MAX_TOKENS = 2**31  # that one answer is taken to have taken
MARK = b'"usage"'  # in a text its quotes would be escaped


class UsageStream:
    """Passes a stream of events on, line by line as they come, and reads the usage in it."""

    def __init__(self, *, is_hidden: bool) -> None:
        """`is_hidden`: the client has not asked for the event that holds the usage alone."""
        self._is_hidden = is_hidden
        self._pending: list[bytes] = []  # parts of a line that has not ended
        self._num_pending = 0
        self._num_events = 0
        self._num_tokens: int | None = None
        self._is_taken = False

    def pass_on(self, part: bytes) -> bytes:
        """Return what the client gets now."""
        whole, newline, rest = part.rpartition(b"\n")
        if not newline:
            self._pending.append(part)
            self._num_pending += len(part)
            return self.end() if self._num_pending > MAX_LINE_BYTES else b""
        lines = self.end() + whole + newline
        if rest:
            self._pending = [rest]
            self._num_pending = len(rest)
        self._num_events += lines.startswith(b"data:") + lines.count(b"\ndata:")
        if MARK not in lines:
            return lines
        return b"".join(line for line in lines.splitlines(keepends=True) if not self._hides(line))

    def end(self) -> bytes:
        """Return what has been held back."""
        pending = b"".join(self._pending)
        self._pending = []
        self._num_pending = 0
        return pending

    def take_tokens(self, *, is_over: bool = False) -> int:
        """Return, once, how many tokens the answer took: 0 until the engine has told it. Where it
        is over and the engine has not, each event counts as one.
        """
        if self._is_taken or (self._num_tokens is None and not is_over):
            return 0
        self._is_taken = True
        return self._num_events if self._num_tokens is None else self._num_tokens

    def _hides(self, line: bytes) -> bool:
        if MARK not in line:
            return False
        event = _parse(line.partition(b":")[2])
        num_tokens = _num_tokens_of(event)
        if num_tokens is None:
            return False
        self._num_tokens = num_tokens
        return self._is_hidden and event.get("choices") == []


def num_tokens_of(answer: bytes) -> int:
    """Return how many tokens a whole answer took; 0 where the engine does not tell."""
    return _num_tokens_of(_parse(answer)) or 0


def _parse(document: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(document)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _num_tokens_of(document: dict[str, object]) -> int | None:
    usage = document.get("usage")
    num_tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    if not isinstance(num_tokens, int):
        return None
    return max(0, min(num_tokens, MAX_TOKENS))
