"""Watch over switches that have not ended: a part of the reconciler of every API process, harmless
in any number.
"""

from contextlib import suppress

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.database import Database
from app.base.errors import NotFound
from app.jobs import lookup as jobs
from app.models import AliasSwitch, SwitchStatus
from app.models.alias_switch import CanaryStart, RequestCount
from app.switches import canary, gate, outcome, repository


def watch(database: Database) -> None:
    """End canaries that fail or hold, and switches whose evaluation is gone. Raises
    `SQLAlchemyError`.
    """
    with database.read() as session:
        undecided = repository.list_undecided(session)
        due = [each for each in repository.list_canaries(session) if _is_due(session, each)]
    for switch in undecided:
        with database.transaction() as session:
            if locked := _lock(session, switch):
                reason = "its evaluation has ended undecided, or was deleted with the job"
                outcome.record(session, locked, SwitchStatus.KEPT, reason)
    for switch in due:
        with database.transaction() as session:
            if locked := _lock(session, switch):
                _end_canary(session, locked)


def _is_due(session: Session, switch: AliasSwitch) -> bool:
    start = _start_of(switch)
    alias = aliases.find_own(session, switch.project_id, switch.alias)
    if alias is None or alias.version != start.version:
        return True
    return canary.judge(*_counts(session, switch, start)) is not None


def _end_canary(session: Session, switch: AliasSwitch) -> None:
    start = _start_of(switch)
    alias = aliases.lock_own(session, switch.project_id, switch.alias)
    if alias is None or alias.version != start.version:
        reason = "it was changed during the canary, which no longer counts"
        outcome.record(session, switch, SwitchStatus.KEPT, reason)
        return
    new, old = _counts(session, switch, start)
    verdict = canary.judge(new, old)
    if verdict == "fails":
        gate.move(session, switch, alias, start.before)
        reason = (
            f"{_share(new)} of its requests failed against {_share(old)} of the others "
            f"(p = {canary.p_value(new, old):.2g})"
        )
        outcome.record(session, switch, SwitchStatus.ROLLED_BACK, reason)
    elif verdict == "holds":
        gate.move_fully(session, switch, alias)
        reason = f"as a canary, {_share(new)} of its requests failed against {_share(old)}"
        outcome.record(session, switch, SwitchStatus.SWITCHED, reason)


def _lock(session: Session, switch: AliasSwitch) -> AliasSwitch | None:
    """Lock the job, if there still is one, and the switch, if its status is the same."""
    with suppress(NotFound):
        jobs.get(session, switch.project_id, switch.job_id, lock=True)
    return repository.lock(session, switch)


def _counts(
    session: Session, switch: AliasSwitch, start: CanaryStart
) -> tuple[RequestCount, RequestCount]:
    """Return the requests of the new model and of the others since the canary began."""
    counts = aliases.counts_since(session, switch.project_id, switch.alias, start.day)
    models = {switch.model_id, *(target.model for target in start.before.models)}
    since = {
        model: counts.get(model, RequestCount()) - start.counts.get(model, RequestCount())
        for model in models
    }
    new = since.pop(switch.model_id)
    return new, sum(since.values(), RequestCount())


def _start_of(switch: AliasSwitch) -> CanaryStart:
    assert switch.canary_start is not None, "a canary has begun"
    return switch.canary_start


def _share(count: RequestCount) -> str:
    return f"{count.errors:,} of {count.requests:,}"
