"""Effective steps of a job, out of all steps of its attempts.

An attempt that begins at step s goes on from the state after s. So the steps of earlier attempts
beyond s do not count, repeated or not; those up to s stay. The client and `series.js` know no
attempts: to them a repeated or earlier step means that an attempt began before it.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.jobs import repository
from app.models import Attempt


class EffectiveSteps:
    """Effective steps of one job. `attempts`: all of its attempts, by rising number."""

    def __init__(self, attempts: Sequence[Attempt] = ()) -> None:
        self._last_steps: dict[int, int] = {}
        limit: int | None = None
        for attempt in reversed(attempts):
            if limit is not None:
                self._last_steps[attempt.number] = limit
            if attempt.start_step is not None:
                limit = attempt.start_step if limit is None else min(limit, attempt.start_step)

    def include(self, attempt: int, step: int) -> bool:
        return step <= self._last_steps.get(attempt, step)


def effective_steps(session: Session, job_ids: Sequence[str]) -> dict[str, EffectiveSteps]:
    """Return the effective steps of each job."""
    attempts = repository.attempts(session, job_ids)
    return {job_id: EffectiveSteps(of_job) for job_id, of_job in attempts.items()}
