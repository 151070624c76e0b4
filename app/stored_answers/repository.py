from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, func, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.orm import Session, aliased, undefer

from app.base.database import UNSYNCED, insert_or, now
from app.base.ids import first_id, is_id
from app.models import AnswerKind, Project, StoredAnswer
from app.models import StoredAnswerMetadata as Pair
from app.models.answer_file import AnswerFilter
from app.models.answer_storage import AnswerStorage
from app.models.stored_answer import PREFIXES
from app.stored_answers.queue import NewAnswer
from app.stored_answers.schemas import Order


def find_storage(session: Session, project_id: str) -> AnswerStorage | None:
    return session.get_one(Project, project_id).answer_storage


def lock_project(session: Session, project_id: str) -> Project:
    statement = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
    return session.scalars(statement, execution_options={"populate_existing": True}).one()


def add(session: Session, project_id: str, answers: Sequence[NewAnswer]) -> None:
    """Add those answers that are not there yet, to a locked project."""
    if not answers:
        return
    rows = [
        {
            "id": answer.id,
            "project_id": project_id,
            "kind": answer.kind,
            "model": answer.model,
            "key_id": answer.key_id,
            "bytes": answer.num_bytes,
            "document": answer.document,
            "question": answer.question,
        }
        for answer in answers
    ]
    insert = insert_or(session, StoredAnswer).values(rows).on_conflict_do_nothing()
    added = set(session.scalars(insert.returning(StoredAnswer.id), execution_options=UNSYNCED))
    for answer in answers:
        if answer.id in added:
            _add_metadata(session, project_id, answer.id, answer.metadata)
    session.flush()
    count_bytes(session, project_id, sum(each.num_bytes for each in answers if each.id in added))


def find(
    session: Session,
    project_id: str,
    kind: AnswerKind | None,
    public_id: str,
    *,
    lock: bool = False,
) -> StoredAnswer | None:
    """Return an answer of a kind; None: of the kind that its id says."""
    for each, prefix in PREFIXES.items():
        if kind in (None, each) and is_id(prefix, public_id):
            is_named = (
                StoredAnswer.id == public_id.removeprefix(prefix),
                StoredAnswer.kind == each,
            )
            statement = select(StoredAnswer).options(undefer(StoredAnswer.question))
            statement = statement.where(*is_named, StoredAnswer.project_id == project_id)
            statement = statement.with_for_update() if lock else statement
            return session.scalars(statement).one_or_none()
    return None


def delete(session: Session, answer: StoredAnswer) -> None:
    session.execute(
        sql_delete(StoredAnswer).where(StoredAnswer.id == answer.id), execution_options=UNSYNCED
    )
    count_bytes(session, answer.project_id, -answer.bytes)


def page(
    session: Session,
    project_id: str,
    filter: AnswerFilter,
    *,
    after: str | None,
    limit: int,
    order: Order,
    with_questions: bool = False,
) -> list[StoredAnswer]:
    """Return at most `limit` answers and one, by age."""
    statement = _matching(select(StoredAnswer), project_id, filter, after, order).limit(limit + 1)
    if with_questions:
        statement = statement.options(undefer(StoredAnswer.question))
    return list(session.scalars(statement))


def metadata_of(session: Session, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the metadata of answers that were read in their project."""
    rows = session.execute(
        select(Pair.answer_id, Pair.name, Pair.value)
        .where(Pair.answer_id.in_(ids))
        .order_by(Pair.name)
    )
    pairs: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for answer_id, name, value in rows:
        pairs[answer_id][name] = value
    return pairs


def replace_metadata(session: Session, answer: StoredAnswer, pairs: dict[str, str]) -> None:
    old = sql_delete(Pair).where(Pair.answer_id == answer.id)
    session.execute(old, execution_options=UNSYNCED)
    _add_metadata(session, answer.project_id, answer.id, pairs)


def count_bytes(session: Session, project_id: str, difference: int) -> None:
    """Add to the total of the project, whose row is the last that a transaction locks."""
    statement = update(Project).where(Project.id == project_id)
    statement = statement.values(answer_bytes=Project.answer_bytes + difference)
    session.execute(statement, execution_options=UNSYNCED)


def delete_some(session: Session, project_id: str, filter: AnswerFilter, limit: int) -> int:
    """Delete the oldest answers that match, and that no other deletion holds; return how many."""
    ids = _matching(select(StoredAnswer.id), project_id, filter, None, "asc").limit(limit)
    held = session.scalars(ids.with_for_update(skip_locked=True, of=StoredAnswer)).all()
    gone = sql_delete(StoredAnswer).where(StoredAnswer.id.in_(held)).returning(StoredAnswer.bytes)
    sizes = session.scalars(gone, execution_options=UNSYNCED).all()
    count_bytes(session, project_id, -sum(sizes))
    return len(sizes)


def projects_to_clean(session: Session) -> list[tuple[str, AnswerFilter]]:
    """Return the projects with answers beyond their days, or that keep none any more; and which."""
    oldest = select(func.min(StoredAnswer.id)).where(StoredAnswer.project_id == Project.id)
    statement = select(Project.id, Project.answer_storage, oldest.scalar_subquery())
    moment = now(session)
    due = []
    for project_id, storage, oldest_id in session.execute(
        statement.where(Project.answer_bytes > 0)
    ):
        if storage is None:
            due.append((project_id, AnswerFilter()))
            continue
        end = int((moment - timedelta(days=storage.kept_days)).timestamp())
        if oldest_id is not None and oldest_id < _first_id(end):
            due.append((project_id, AnswerFilter(created_before=end)))
    return due


def _matching(
    statement: Select[Any],
    project_id: str,
    filter: AnswerFilter,
    after: str | None,
    order: Order,
) -> Select[Any]:
    pairs = [(aliased(Pair), *pair) for pair in filter.metadata.items()]
    # Ordered by the column that the filter reads, or SQLite collects every match before it sorts.
    answer_id = pairs[0][0].answer_id if pairs else StoredAnswer.id
    statement = statement.where(StoredAnswer.project_id == project_id)
    for pair, name, value in pairs:
        is_pair = (pair.project_id == project_id, pair.name == name, pair.value == value)
        statement = statement.join(pair, and_(pair.answer_id == StoredAnswer.id, *is_pair))
    if after is not None:
        # Of both tables: Postgres may merge them, and then begins there in both.
        for column in (answer_id, StoredAnswer.id):
            statement = statement.where(column < after if order == "desc" else column > after)
    if filter.model is not None:
        statement = statement.where(StoredAnswer.model == filter.model)
    if filter.corrected is not None:
        is_corrected = StoredAnswer.corrected.is_not(None)
        statement = statement.where(is_corrected if filter.corrected else ~is_corrected)
    if filter.kind is not None:
        statement = statement.where(StoredAnswer.kind == filter.kind)
    if filter.created_after is not None:
        statement = statement.where(answer_id >= _first_id(filter.created_after))
    if filter.created_before is not None:
        statement = statement.where(answer_id < _first_id(filter.created_before))
    return statement.order_by(answer_id.desc() if order == "desc" else answer_id.asc())


def _first_id(seconds: int) -> str:
    return first_id("", datetime.fromtimestamp(seconds, UTC))


def _add_metadata(session: Session, project_id: str, answer_id: str, pairs: dict[str, str]) -> None:
    session.add_all(
        Pair(answer_id=answer_id, project_id=project_id, name=name, value=value)
        for name, value in pairs.items()
    )
