"""Use cases of stored answers. Reading one is in the audit log, as changing it is."""

import json
from typing import Any

from pydantic import JsonValue
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import Database
from app.base.errors import InvalidRequest, NotFound, QuotaExceeded
from app.base.ids import is_id
from app.http.pagination import Page, invalid_cursor
from app.models import AnswerKind, StoredAnswer
from app.models.answer_file import AnswerFilter
from app.models.job_request import MAX_METADATA_PAIRS
from app.models.stored_answer import PREFIXES
from app.services import Services
from app.stored_answers import repository
from app.stored_answers.records import supervised_line
from app.stored_answers.redaction import Redactor
from app.stored_answers.schemas import (
    AnswerRow,
    Judgement,
    Order,
    StoredAnswerChange,
    StoredAnswerDeleted,
    StoredAnswerObject,
    StoredAnswersDeleted,
    StoredMessage,
)
from falqon_core.records.jsonl import BadRecord
from falqon_core.records.line_parser import parse_record

DELETED_AT_ONCE = 500  # in one transaction
DELETED_IN_A_CALL = 10_000


def list_answers(
    services: Services,
    caller: Caller,
    filter: AnswerFilter,
    *,
    after: str | None = None,
    limit: int,
    order: Order,
) -> Page[StoredAnswerObject]:
    """Return the answers that match, by age."""
    with services.database.transaction() as session:
        answers = repository.page(
            session,
            caller.project_id,
            filter,
            after=_parse_cursor(after),
            limit=limit,
            order=order,
        )
        metadata = repository.metadata_of(session, [answer.id for answer in answers])
        audit.record(session, caller, "stored_answer.listed")
    objects = [StoredAnswerObject.of(answer, metadata.get(answer.id, {})) for answer in answers]
    return Page[StoredAnswerObject].of(objects, limit)


def list_rows(
    services: Services, caller: Caller, filter: AnswerFilter, *, after: str | None, limit: int
) -> Page[AnswerRow]:
    """Return the answers that match with their questions, the newest first."""
    with services.database.transaction() as session:
        answers = repository.page(
            session,
            caller.project_id,
            filter,
            after=_parse_cursor(after),
            limit=limit,
            order="desc",
            with_questions=True,
        )
        metadata = repository.metadata_of(session, [answer.id for answer in answers])
        audit.record(session, caller, "stored_answer.listed")
    rows = [AnswerRow.of(answer, metadata.get(answer.id, {})) for answer in answers]
    return Page[AnswerRow].of(rows, limit)


def retrieve_answer(
    services: Services, caller: Caller, kind: AnswerKind | None, public_id: str
) -> StoredAnswerObject:
    with services.database.transaction() as session:
        answer = get(session, caller.project_id, kind, public_id)
        audit.record(session, caller, "stored_answer.read", public_id)
        return _object_of(session, answer)


def list_messages(
    services: Services,
    caller: Caller,
    kind: AnswerKind | None,
    public_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order,
) -> Page[StoredMessage]:
    """Return the messages of the question."""
    if after is not None and not after.startswith(f"{public_id}-"):
        raise invalid_cursor(after, "a message of this answer")
    with services.database.transaction() as session:
        answer = get(session, caller.project_id, kind, public_id)
        audit.record(session, caller, "stored_answer.read", public_id)
    written = json.loads(answer.question)["messages"]
    messages = [StoredMessage.of(public_id, i, message) for i, message in enumerate(written)]
    if order == "desc":
        messages.reverse()
    if after is not None:
        ids = [message.id for message in messages]
        if after not in ids:
            raise invalid_cursor(after, "a message of this answer")
        messages = messages[ids.index(after) + 1 :]
    return Page[StoredMessage].of(messages, limit)


def change_answer(
    services: Services,
    caller: Caller,
    kind: AnswerKind | None,
    public_id: str,
    change: StoredAnswerChange,
) -> StoredAnswerObject:
    """Set the metadata, such as a rating, or the answer that should have come."""
    with services.database.transaction() as session:
        answer = get(session, caller.project_id, kind, public_id, lock=True)
        _change(session, answer, change)
        audit.record(session, caller, "stored_answer.updated", public_id)
        return _object_of(session, answer)


def judge_answer(
    services: Services,
    caller: Caller,
    public_id: str,
    judgement: Judgement,
    *,
    keeps_correction: bool,
) -> None:
    """Set the rating and, unless it keeps its correction, the answer that should have come."""
    with services.database.transaction() as session:
        answer = get(session, caller.project_id, None, public_id, lock=True)
        pairs = repository.metadata_of(session, [answer.id]).get(answer.id, {})
        pairs = {name: value for name, value in pairs.items() if name != "rating"}
        metadata = pairs | ({"rating": judgement.rating} if judgement.rating else {})
        if len(metadata) > MAX_METADATA_PAIRS:
            raise InvalidRequest(
                f"rating: the answer has {len(pairs)} other pairs of metadata, and may have "
                f"{MAX_METADATA_PAIRS} in all; remove one over the API first.",
                param="rating",
            )
        change: dict[str, Any] = {"metadata": metadata}
        if not keeps_correction:
            change["falqon"] = {"corrected": judgement.corrected or None}
        _change(session, answer, StoredAnswerChange.model_validate(change))
        audit.record(session, caller, "stored_answer.updated", public_id)


def delete_answer(
    services: Services, caller: Caller, kind: AnswerKind | None, public_id: str
) -> StoredAnswerDeleted:
    with services.database.transaction() as session:
        answer = get(session, caller.project_id, kind, public_id, lock=True)
        repository.delete(session, answer)
        audit.record(session, caller, "stored_answer.deleted", public_id)
    is_chat = answer.kind == AnswerKind.CHAT
    return StoredAnswerDeleted(
        id=public_id, object="chat.completion.deleted" if is_chat else "response"
    )


def delete_answers(
    services: Services, caller: Caller, filter: AnswerFilter
) -> StoredAnswersDeleted:
    """Delete the answers that match, a bounded number of them."""
    if filter.is_empty:
        raise InvalidRequest(
            "filter: it is empty, and would delete every stored answer; write at least one "
            "condition, such as created_before.",
            param="filter",
            code="empty_filter",
        )
    with services.database.transaction() as session:
        audit.record(session, caller, "stored_answers.deleted")
    num_deleted = 0
    while num_deleted < DELETED_IN_A_CALL:
        num_gone = _delete_some(services.database, caller.project_id, filter)
        num_deleted += num_gone
        if num_gone < DELETED_AT_ONCE:
            return StoredAnswersDeleted(num_deleted=num_deleted, has_more=False)
    return StoredAnswersDeleted(num_deleted=num_deleted, has_more=True)


def remove_old(database: Database) -> None:
    """Remove some answers beyond their days, and of projects that keep none any more."""
    with database.read() as session:
        due = repository.projects_to_clean(session)
    for project_id, filter in due:
        _delete_some(database, project_id, filter)


def get(
    session: Session,
    project_id: str,
    kind: AnswerKind | None,
    public_id: str,
    *,
    lock: bool = False,
) -> StoredAnswer:
    """Return an answer of a kind; None: of either."""
    answer = repository.find(session, project_id, kind, public_id, lock=lock)
    if answer is None:
        raise NotFound(
            f"No such stored answer: {public_id}. It was created without `store`, in a project "
            "that stores none, or it has been deleted.",
            param="id",
            code="answer_not_found",
        )
    return answer


def _delete_some(database: Database, project_id: str, filter: AnswerFilter) -> int:
    with database.transaction() as session:
        return repository.delete_some(session, project_id, filter, DELETED_AT_ONCE)


def _change(session: Session, answer: StoredAnswer, change: StoredAnswerChange) -> None:
    storage = repository.find_storage(session, answer.project_id)
    redactor = Redactor(storage.redact if storage else ())
    if "metadata" in change.model_fields_set:
        repository.replace_metadata(session, answer, redactor.pairs(change.metadata or {}))
    if change.falqon is not None:
        _correct(session, answer, redactor, change.falqon.corrected)
    session.flush()


def _correct(
    session: Session,
    answer: StoredAnswer,
    redactor: Redactor,
    corrected: str | dict[str, JsonValue] | None,
) -> None:
    written = None
    if corrected is not None:
        message = {"content": corrected} if isinstance(corrected, str) else corrected
        message = redactor.value(message | {"role": "assistant"})
        _check_record(answer, message)
        written = json.dumps(message, separators=(",", ":"))
    difference = len(written or "") - len(answer.corrected or "")
    project = repository.lock_project(session, answer.project_id)
    storage = project.answer_storage
    if storage and difference > 0 and project.answer_bytes + difference > storage.max_bytes:
        raise QuotaExceeded(
            f"max_bytes: the stored answers of this project hold {project.answer_bytes} bytes, "
            f"and its limit is {storage.max_bytes}. Delete some, or raise the limit.",
            param="max_bytes",
        )
    answer.corrected = written
    answer.bytes += difference
    session.flush()
    repository.count_bytes(session, answer.project_id, difference)


def _check_record(answer: StoredAnswer, message: dict[str, Any]) -> None:
    """Refuse a corrected answer that could not be trained."""
    try:
        parse_record(supervised_line(json.loads(answer.question), message))
    except BadRecord as error:
        fault = error.error
        raise InvalidRequest(
            f"falqon.corrected: {fault.message}; {fault.advice}.", param="falqon.corrected"
        ) from None


def _object_of(session: Session, answer: StoredAnswer) -> StoredAnswerObject:
    pairs = repository.metadata_of(session, [answer.id])
    return StoredAnswerObject.of(answer, pairs.get(answer.id, {}))


def _parse_cursor(after: str | None) -> str | None:
    if after is None:
        return None
    for prefix in PREFIXES.values():
        if is_id(prefix, after):
            return after.removeprefix(prefix)
    raise invalid_cursor(after, "a stored answer")
