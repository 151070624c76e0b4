"""Budget of an agent's key for a UTC day. Free of the web framework.

Checked in the transaction that writes the job: the key's row is locked, so of two requests at once
the second counts the job of the first.
"""

from decimal import Decimal

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import InvalidRequest, QuotaExceeded
from app.jobs import repository
from app.keys import service as keys
from app.models import Scope
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
    not ended leave them, also of those created on an earlier day.
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
    most = keys.lock(session, caller.key_id).daily_budget_usd or Decimal(0)
    spent = usage.cost_of_key(session, caller.project_id, caller.key_id, now(session).date())
    reserved = repository.unspent_budget(session, caller.project_id, caller.key_id)
    left = max(Decimal(0), most - spent - reserved)
    if budget.max_cost_usd > left:
        raise QuotaExceeded(
            f"daily_budget_usd: this job may cost {dollars(budget.max_cost_usd)}, and "
            f"{dollars(left)} is left of the {dollars(most)} that this key may spend today (UTC): "
            f"{dollars(spent)} is spent, and {dollars(reserved)} is reserved for jobs that have "
            f"not ended. Nothing was created. Use a lower {CAP}, wait for a job to end or for "
            "tomorrow, or ask for a key with a larger budget.",
            param="daily_budget_usd",
        )
