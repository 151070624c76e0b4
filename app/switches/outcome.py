"""Outcome of a switch: its row, and beside it the job's event, the webhook and the audit log."""

from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import now
from app.jobs.events import NewEvent, append
from app.models import AliasSwitch, Scope, SwitchStatus
from app.webhooks import events as webhooks

WORDS: dict[SwitchStatus, str] = {
    SwitchStatus.CANARY: "'{alias}' sends {percent} % of its requests to {model}: {reason}.",
    SwitchStatus.SWITCHED: "'{alias}' stands for {model}: {reason}.",
    SwitchStatus.KEPT: "'{alias}' is left as it is: {reason}.",
    SwitchStatus.ROLLED_BACK: "'{alias}' no longer stands for {model}: {reason}.",
}


def record(session: Session, switch: AliasSwitch, status: SwitchStatus, reason: str) -> None:
    """Set the status of a switch, in the transaction that moves the name or leaves it."""
    switch.status = status
    switch.reason = reason
    if status is not SwitchStatus.CANARY:
        switch.ended_at = now(session)
    session.flush()
    text = WORDS[status].format(
        alias=switch.alias, model=switch.model_id, percent=switch.canary_percent, reason=reason
    )
    data = {
        "event": f"switch.{status}",
        "switch": switch.id,
        "alias": switch.alias,
        "model": switch.model_id,
    }
    is_good = status in (SwitchStatus.CANARY, SwitchStatus.SWITCHED)
    event = NewEvent(text, level="info" if is_good else "warn", data=data)
    append(session, switch.job_id, [event])
    webhooks.record(session, switch.project_id, switch.job_id, f"switch.{status}")
    audit.record(session, _caller_of(switch), f"alias.switch_{status}", switch.alias)


def _caller_of(switch: AliasSwitch) -> Caller:
    """Return the caller that asked for the switch, some time ago."""
    return Caller(
        key_id=switch.key_id or "",
        project_id=switch.project_id,
        scope=Scope.WRITE,
        requests_per_minute=None,
        use_is_due=False,
    )
