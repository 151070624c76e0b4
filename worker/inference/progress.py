"""An engine that computes without progress: a question may have it build something endless, also
when the caller has gone.
"""

import time

from worker.inference.engine_process import EngineEnded
from worker.inference.metrics import EngineMetrics

STALLED_CPU_SECONDS = 60.0
# A step is up to 512 tokens of a prompt; so long a core takes for them that has no vector unit.
STALLED_CPU_SECONDS_PER_GIB = 300.0
IDLE_SHARE = 0.05  # Share of a core below which nothing is computed.
GIB = 2**30


class ProgressWatch:
    """Counts the processor time since its last step of an engine that says how many it made."""

    def __init__(self, metrics: EngineMetrics, model_bytes: int) -> None:
        self._metrics = metrics
        self._most_seconds = STALLED_CPU_SECONDS + STALLED_CPU_SECONDS_PER_GIB * model_bytes / GIB
        self._num_steps = metrics.num_steps
        self._cpu_seconds = metrics.cpu_seconds
        self._checked_at = time.monotonic()
        self._stalled_seconds = 0.0

    def check(self) -> None:
        """Compare with the last reading. Raises `EngineEnded` where the limit is reached."""
        now = time.monotonic()
        used = self._metrics.cpu_seconds - self._cpu_seconds
        is_idle = used < IDLE_SHARE * (now - self._checked_at)
        is_silent = self._num_steps is None
        if is_silent or is_idle or self._metrics.num_steps != self._num_steps:
            self._stalled_seconds = 0.0
        else:
            self._stalled_seconds += used
        self._num_steps = self._metrics.num_steps
        self._cpu_seconds = self._metrics.cpu_seconds
        self._checked_at = now
        if self._stalled_seconds > self._most_seconds:
            raise EngineEnded(
                f"the engine has computed for {self._stalled_seconds:.0f} CPU seconds without a "
                "step of an answer"
            )
