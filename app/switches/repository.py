from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import AliasSwitch, Evaluation, OperationStatus, SwitchStatus

OPEN = (SwitchStatus.EVALUATING, SwitchStatus.CANARY)


def find(session: Session, project_id: str, alias: str, switch_id: str) -> AliasSwitch | None:
    statement = select(AliasSwitch).where(
        AliasSwitch.id == switch_id,
        AliasSwitch.project_id == project_id,
        AliasSwitch.alias == alias,
    )
    return session.scalars(statement).one_or_none()


def newest_first(
    session: Session, project_id: str, alias: str, *, after: str | None, limit: int
) -> list[AliasSwitch]:
    """Return the newest first, at most one more than `limit`."""
    statement = select(AliasSwitch).where(
        AliasSwitch.project_id == project_id, AliasSwitch.alias == alias
    )
    if after is not None:
        statement = statement.where(AliasSwitch.id < after)
    return list(session.scalars(statement.order_by(AliasSwitch.id.desc()).limit(limit + 1)))


def newest_by_alias(session: Session, project_id: str) -> dict[str, AliasSwitch]:
    newest = (
        select(func.max(AliasSwitch.id))
        .where(AliasSwitch.project_id == project_id)
        .group_by(AliasSwitch.alias)
    )
    switches = session.scalars(select(AliasSwitch).where(AliasSwitch.id.in_(newest)))
    return {switch.alias: switch for switch in switches}


def find_open(session: Session, project_id: str, alias: str) -> AliasSwitch | None:
    """Return a switch of a name that has not ended."""
    statement = select(AliasSwitch).where(
        AliasSwitch.project_id == project_id,
        AliasSwitch.alias == alias,
        AliasSwitch.status.in_(OPEN),
    )
    return session.scalars(statement.limit(1)).first()


def lock_of_evaluation(session: Session, evaluation_id: str) -> AliasSwitch | None:
    """Return the switch that an evaluation decides, until the transaction ends."""
    statement = select(AliasSwitch).where(
        AliasSwitch.evaluation_id == evaluation_id, AliasSwitch.status == SwitchStatus.EVALUATING
    )
    return session.scalars(statement.with_for_update()).one_or_none()


def lock(session: Session, switch: AliasSwitch) -> AliasSwitch | None:
    """Return the row as it is now, until the transaction ends; None if its status has changed."""
    statement = select(AliasSwitch).where(
        AliasSwitch.id == switch.id, AliasSwitch.status == switch.status
    )
    return session.scalars(statement.with_for_update()).one_or_none()


def list_canaries(session: Session) -> Sequence[AliasSwitch]:
    statement = select(AliasSwitch).where(AliasSwitch.status == SwitchStatus.CANARY)
    return session.scalars(statement.order_by(AliasSwitch.id)).all()


def list_undecided(session: Session) -> Sequence[AliasSwitch]:
    """Return those that wait for an evaluation which is not in progress."""
    in_progress = select(Evaluation.id).where(
        Evaluation.id == AliasSwitch.evaluation_id,
        Evaluation.status == OperationStatus.IN_PROGRESS,
    )
    statement = select(AliasSwitch).where(
        AliasSwitch.status == SwitchStatus.EVALUATING, ~in_progress.exists()
    )
    return session.scalars(statement.order_by(AliasSwitch.id)).all()
