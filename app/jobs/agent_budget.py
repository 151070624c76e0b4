"""Budget of an agent's key for a UTC day. Free of the web framework.

Checked in the transaction that writes the job or the evaluation: the key's row is locked, so of two
requests at once the second counts what the first has written.
"""

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import InvalidRequest, QuotaExceeded
from app.jobs import repository
from app.keys import service as keys
from app.models import ApiKey, Scope
from app.models.falqon_options import Budget
from app.usage import service as usage

CAP = "falqon.budget.max_cost_usd"


def dollars(amount: Decimal) -> str:
    """Write an amount with its cents, and with the parts of a cent that it has."""
    cents = amount.quantize(Decimal("0.01"))
    return f"${cents if cents == amount else amount.normalize()}"


def admit_job(session: Session, caller: Caller, budget: Budget | None) -> None:
    """Raise `QuotaExceeded` if a job with this budget could cost more than is left of the day.

    The day's jobs can cost what they have cost since midnight, and what the caps of those that have
    not ended leave them, also of those created on an earlier day. The key's evaluations count the
    same way, those of other keys' jobs, too.
    """
    if caller.scope is not Scope.AGENT:
        return
    if budget is None or budget.max_cost_usd is None:
        raise InvalidRequest(
            f"{CAP}: a job of an agent's key needs one, as a decimal string; at that cost it "
            "pauses.",
            param=CAP,
            code="missing_required_parameter",
        )
    day = _read_day(session, caller)
    if budget.max_cost_usd > day.left:
        raise QuotaExceeded(
            f"daily_budget_usd: this job may cost {dollars(budget.max_cost_usd)}, and {day}. "
            f"Nothing was created. Use a lower {CAP}, wait for a job or an evaluation to end or "
            "for tomorrow, or ask for a key with a larger budget.",
            param="daily_budget_usd",
        )


def admit_answers(session: Session, caller: Caller) -> Decimal | None:
    """Return the most that an evaluation or a batch may cost, None for any amount. Raise
    `QuotaExceeded` if nothing is left of the day of an agent's key.
    """
    if caller.scope is not Scope.AGENT:
        return None
    day = _read_day(session, caller)
    if not day.left:
        raise QuotaExceeded(
            f"daily_budget_usd: {day}. Nothing was created. Wait for a job or an evaluation to end "
            "or for tomorrow, or ask for a key with a larger budget.",
            param="daily_budget_usd",
        )
    return day.left


def is_spent(session: Session, project_id: str, key_id: str) -> bool:
    """Return whether nothing is left of the day of an agent's key, revoked or not, for what has
    begun. Evaluations in progress count here once they have ended: what they reserve is often all
    that is left, for some minutes, and would end a batch for good.
    """
    key = keys.find_even_revoked(session, project_id, key_id)
    if key is None or key.scope != Scope.AGENT:
        return False
    spent = usage.cost_of_key(session, project_id, key_id, now(session).date())
    reserved = repository.unspent_budget(session, project_id, key_id)
    return spent + reserved >= (key.daily_budget_usd or Decimal(0))


@dataclass(frozen=True, slots=True)
class Day:
    """Budget of a key for a UTC day: all of it, what is spent, and what is reserved."""

    most: Decimal
    spent: Decimal
    reserved: Decimal

    @property
    def left(self) -> Decimal:
        return max(Decimal(0), self.most - self.spent - self.reserved)

    def __str__(self) -> str:
        return (
            f"{dollars(self.left)} is left of the {dollars(self.most)} that this key may spend "
            f"today (UTC): {dollars(self.spent)} is spent, and {dollars(self.reserved)} is "
            "reserved for jobs and evaluations that have not ended"
        )


def _read_day(session: Session, caller: Caller) -> Day:
    return _day_of(session, caller.project_id, keys.lock(session, caller.key_id))


def _day_of(session: Session, project_id: str, key: ApiKey) -> Day:
    return Day(
        key.daily_budget_usd or Decimal(0),
        usage.cost_of_key(session, project_id, key.id, now(session).date()),
        repository.unspent_budget(session, project_id, key.id)
        + repository.reserved_for_evaluations(session, project_id, key.id),
    )
