"""Outstanding answers of each API key in this process."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.base.errors import RateLimited

RETRY_SECONDS = "1"


class AnswersInFlight:
    """By key."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()

    @contextmanager
    def hold(self, key_id: str, num_answers: int, max_answers: int) -> Iterator[None]:
        """Count the answers of a request until the end of the block.

        Raises `RateLimited` when there are too many beside the other requests of the API key.
        """
        others = self._numbers[key_id]
        if others and others + num_answers > max_answers:
            raise RateLimited(
                f"This API key has {others} outstanding answers and may wait for "
                f"{max_answers} at once; this request needs {num_answers}. Try again when "
                "others have ended.",
                headers={"retry-after": RETRY_SECONDS},
            )
        self._numbers[key_id] += num_answers
        try:
            yield
        finally:
            self._numbers[key_id] -= num_answers
            if not self._numbers[key_id]:
                del self._numbers[key_id]
