"""Tokens of a request: estimated when it is sent, and counted as its answers arrive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.to_thread import run_sync

from app.inference.questions import EngineRequest

MAX_TOKENS = 2**31  # upper bound of the tokens counted for one answer


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one answer, as its engine counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def usage_of(document: dict[str, Any]) -> TokenUsage | None:
    """Return the usage in an answer or an event, if there is one."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    numbers = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    return TokenUsage(*map(_bound, numbers))


class UsageTally:
    """Usage of the answers of a request so far. A prompt counts once, independently of the number
    of its choices.
    """

    def __init__(self, estimates: Sequence[int], num_answers: int) -> None:
        self._estimates = estimates
        self._prompts: dict[int, int] = {}  # prompts that were sent
        self._cached: dict[int, int] = {}
        self._answers = [0] * num_answers
        self._beside = (0, 0)  # read and written

    @property
    def estimate(self) -> int:
        """Estimate the tokens of all prompts, before any is sent."""
        return sum(self._estimates)

    @property
    def input_tokens(self) -> int:
        return sum(self._prompts.values()) + self._beside[0]

    @property
    def output_tokens(self) -> int:
        return sum(self._answers) + self._beside[1]

    @property
    def num_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def has_beside(self) -> bool:
        return any(self._beside)

    def add_beside(self, usage: TokenUsage) -> None:
        """Count what the engine read and wrote for a question that is no answer, as for an echo."""
        read, written = self._beside
        self._beside = (read + usage.prompt_tokens, written + usage.completion_tokens)

    def add_sent(self, question: EngineRequest) -> None:
        self._prompts.setdefault(question.prompt, self._estimates[question.prompt])

    def take_refused(self, question: EngineRequest) -> None:
        """Count a prompt that the engine refused, or never got, as nothing, until it is sent again
        and unless another choice of it was answered.
        """
        if question.prompt not in self._cached:
            self._prompts.pop(question.prompt, None)

    def add_event(self, question: EngineRequest) -> None:
        """Count an event of a stream as a token, until the engine reports its usage."""
        self._answers[question.choice] += 1

    def set_usage(self, question: EngineRequest, usage: TokenUsage) -> None:
        self._prompts[question.prompt] = usage.prompt_tokens
        self._answers[question.choice] = usage.completion_tokens
        if question.prompt not in self._cached:  # a later choice finds the prompt of the first
            self._cached[question.prompt] = usage.cached_tokens

    def document(self, *, is_private: bool) -> dict[str, Any]:
        """Return the usage as the caller gets it. The engine's cached tokens may reveal other
        projects' prompts, unless the model is `is_private`.
        """
        prompt_tokens = sum(self._prompts.values())
        completion_tokens = sum(self._answers)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        if is_private:
            usage["prompt_tokens_details"] = {"cached_tokens": sum(self._cached.values())}
        return usage


class Bill:
    """Charges the usage to its API key, and has it counted; `charge` waits for Redis, and `count`
    for nothing. It takes a number of requests, and of the tokens read and written.
    """

    def __init__(
        self,
        tally: UsageTally,
        charge: Callable[[int], None],
        count: Callable[[int, int, int], None],
    ) -> None:
        self._tally = tally
        self._charge = charge
        self._count = count
        self._num_charged = 0
        self._counted = (0, 0, 0)

    async def open(self) -> None:
        """Charge the estimate, so that a client that disconnects has paid for its prompts."""
        await self._charge_up_to(self._tally.estimate)

    async def settle(self) -> None:
        """Charge the missing tokens, or return the surplus."""
        with anyio.CancelScope(shield=True):
            self._count_up()
            await self._charge_up_to(self._tally.num_tokens)

    def _count_up(self) -> None:
        """Count what has come since the last call; a request that was refused is none."""
        tokens = (self._tally.input_tokens, self._tally.output_tokens)
        total = (1, *tokens) if any(tokens) else (0, 0, 0)
        before, self._counted = self._counted, total
        self._count(total[0] - before[0], total[1] - before[1], total[2] - before[2])

    async def _charge_up_to(self, num_tokens: int) -> None:
        if difference := num_tokens - self._num_charged:
            self._num_charged = num_tokens
            await run_sync(self._charge, difference)


def _bound(number: object) -> int:
    return max(0, min(number, MAX_TOKENS)) if isinstance(number, int) else 0
