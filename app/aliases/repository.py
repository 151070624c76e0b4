from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from app.aliases.traffic import TrafficCount, TrafficKey
from app.base.database import UNSYNCED, insert_or, now_plus
from app.base.ids import new_id
from app.models import Alias, AliasDay, Installation, Model, Project
from app.models.alias import AliasTargets
from app.models.alias_switch import RequestCount


@dataclass(frozen=True, slots=True)
class AliasSum:
    """Requests that named an alias and went to one of its models."""

    name: str
    model_id: str
    requests: int
    errors: int
    milliseconds: int

    @property
    def average_milliseconds(self) -> float | None:
        answered = self.requests - self.errors
        return self.milliseconds / answered if answered else None


MAX_VERSIONS = 100  # kept of each name
MAX_DELETED = 200  # deleted names of a project whose versions are kept
FIRST_TARGET = Alias.targets[("models", 0, "model")].as_string()  # null: the name is deleted


def lock(session: Session, project_id: str | None) -> None:
    """Have changes of the names of a project, or of every project, wait for each other, and nobody
    else: who deletes a model has its row, for which this waits, and adds rows of the project.
    """
    if project_id is None:
        session.execute(select(Installation.number).with_for_update())
    else:
        of_project = select(Project.id).where(Project.id == project_id)
        session.execute(of_project.with_for_update(key_share=True))


def find(session: Session, project_id: str | None, name: str) -> Alias | None:
    """Return the version that is in force of a project's own name; None means a name everywhere."""
    statement = select(Alias).where(_belongs_to(project_id), Alias.name == name, _in_force())
    return session.scalars(statement).one_or_none()


def find_visible(session: Session, project_id: str, name: str) -> Alias | None:
    """Return what a project means by a name: its own comes before one of every project."""
    statement = select(Alias).where(_visible_to(project_id), Alias.name == name, *_is_usable())
    found = session.scalars(statement).all()
    return max(found, key=lambda alias: alias.project_id is not None, default=None)


def list_visible(session: Session, project_id: str) -> list[Alias]:
    """Return the names that a project may use, sorted."""
    statement = select(Alias).where(_visible_to(project_id), *_is_usable())
    rows = session.scalars(statement.order_by(Alias.name)).all()
    own = {row.name for row in rows if row.project_id is not None}
    return [row for row in rows if row.project_id is not None or row.name not in own]


def count(session: Session, project_id: str | None) -> int:
    usable = (_belongs_to(project_id), *_is_usable())
    return session.scalars(select(func.count()).select_from(Alias).where(*usable)).one()


def list_in_force(session: Session) -> Sequence[Alias]:
    """Return the names of all projects that stand for a model."""
    return session.scalars(select(Alias).where(*_is_usable())).all()


def versions(session: Session, project_id: str | None, name: str) -> Sequence[Alias]:
    """Return the versions of a name, the newest first."""
    statement = select(Alias).where(_belongs_to(project_id), Alias.name == name)
    return session.scalars(statement.order_by(Alias.version.desc()).limit(MAX_VERSIONS)).all()


def add_version(
    session: Session,
    project_id: str | None,
    name: str,
    targets: AliasTargets,
    key_id: str | None,
    switch_id: str | None = None,
) -> Alias:
    """Put a version in force, in place of the last one, and forget the oldest. Without targets it
    deletes the name.
    """
    before = find(session, project_id, name)
    if before is not None:
        before.replaced_at = now_plus()
    alias = Alias(
        id=new_id("alias_"),
        project_id=project_id,
        name=name,
        version=before.version + 1 if before else 1,
        targets=targets,
        key_id=key_id,
        switch_id=switch_id,
    )
    session.add(alias)
    is_old = (_belongs_to(project_id), Alias.name == name)
    session.flush()
    session.execute(
        delete(Alias).where(*is_old, Alias.version <= alias.version - MAX_VERSIONS),
        execution_options=UNSYNCED,
    )
    if project_id is not None and not targets.models:
        _forget_deleted(session, project_id)
    session.refresh(alias)
    return alias


def _forget_deleted(session: Session, project_id: str) -> None:
    """Forget the versions of all but the names that were deleted last. Names of every project stay:
    one of the settings is added only if it has never been there.
    """
    deleted = (_belongs_to(project_id), _in_force(), FIRST_TARGET.is_(None))
    last = (Alias.created_at.desc(), Alias.id.desc())
    older = select(Alias.name).where(*deleted).order_by(*last).offset(MAX_DELETED)
    session.execute(
        delete(Alias).where(_belongs_to(project_id), Alias.name.in_(older)),
        execution_options=UNSYNCED,
    )


def visible_models(session: Session, project_id: str | None, ids: Sequence[str]) -> set[str]:
    """Return the models of these that a project has, which are not deleted before the transaction
    ends; None: that every project has.
    """
    visible = or_(Model.project_id.is_(None), Model.project_id == project_id)
    statement = select(Model.id).where(visible, Model.id.in_(ids), Model.deleted_at.is_(None))
    return set(session.scalars(statement.with_for_update(read=True)))


def usage(session: Session, project_id: str, name: str, days: int) -> Sequence[AliasDay]:
    """Return the days of a name, the newest first."""
    statement = select(AliasDay).where(AliasDay.name == name, *_within(project_id, days))
    return session.scalars(statement.order_by(AliasDay.day.desc(), AliasDay.model_id)).all()


def counts_since(
    session: Session, project_id: str, name: str, day: date
) -> dict[str, RequestCount]:
    """Return the requests of a name by model, from the beginning of a day on."""
    counts = (func.sum(AliasDay.requests), func.sum(AliasDay.errors))
    mine = (AliasDay.project_id == project_id, AliasDay.name == name, AliasDay.day >= day)
    statement = select(AliasDay.model_id, *counts).where(*mine).group_by(AliasDay.model_id)
    return {
        model_id: RequestCount(requests=int(requests), errors=int(errors))
        for model_id, requests, errors in session.execute(statement)
    }


def sum_usage(session: Session, project_id: str, days: int) -> list[AliasSum]:
    """Return the sums of the last days."""
    groups: tuple[Any, ...] = (AliasDay.name, AliasDay.model_id)
    counts = (AliasDay.requests, AliasDay.errors, AliasDay.milliseconds)
    statement = select(*groups, *map(func.sum, counts)).where(*_within(project_id, days))
    rows = session.execute(statement.group_by(*groups).order_by(*groups))
    return [AliasSum(*row[:2], *map(int, row[2:])) for row in rows]


def add_usage(session: Session, key: TrafficKey, count: TrafficCount) -> None:
    """Add the counts to those of the day."""
    counts = {
        "requests": count.requests,
        "errors": count.errors,
        "milliseconds": round(count.milliseconds),
    }
    statement = insert_or(session, AliasDay).values(asdict(key) | counts)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[AliasDay.project_id, AliasDay.name, AliasDay.model_id, AliasDay.day],
            set_={name: getattr(AliasDay, name) + value for name, value in counts.items()},
        )
    )


def _within(project_id: str, days: int) -> tuple[ColumnElement[bool], ...]:
    since = datetime.now(UTC).date() - timedelta(days=days - 1)
    return (AliasDay.project_id == project_id, AliasDay.day >= since)


def _belongs_to(project_id: str | None) -> ColumnElement[bool]:
    return Alias.project_id.is_(None) if project_id is None else Alias.project_id == project_id


def _visible_to(project_id: str) -> ColumnElement[bool]:
    return or_(Alias.project_id.is_(None), Alias.project_id == project_id)


def _in_force() -> ColumnElement[bool]:
    return Alias.replaced_at.is_(None)


def _is_usable() -> tuple[ColumnElement[bool], ...]:
    return _in_force(), FIRST_TARGET.is_not(None)
