"""Storing of answers: redacted, within the bounds of their project, each once."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from app.base import counters
from app.base.database import Database
from app.models.answer_storage import AnswerStorage
from app.stored_answers import repository
from app.stored_answers.queue import NewAnswer
from app.stored_answers.redaction import Redactor


def store(database: Database, answers: Sequence[NewAnswer]) -> None:
    """Write the answers of projects that keep them; an answer that is there stays as it is."""
    by_project: defaultdict[str, list[NewAnswer]] = defaultdict(list)
    for answer in answers:
        by_project[answer.project_id].append(answer)
    for project_id, own in by_project.items():
        is_stored = False
        while not is_stored:  # again after a change of the rules
            with database.read() as session:
                storage = repository.find_storage(session, project_id)
            is_stored = _store(database, project_id, storage, own)


def _store(
    database: Database,
    project_id: str,
    storage: AnswerStorage | None,
    answers: Sequence[NewAnswer],
) -> bool:
    """Write the answers by these rules; return False if the project has others by now."""
    if storage is None:
        return True
    redacted = _redact(answers, storage.redact)
    with database.transaction() as session:
        project = repository.lock_project(session, project_id)
        if project.answer_storage != storage:
            return False
        room = storage.max_bytes - project.answer_bytes
        fitting = []
        for answer in redacted:
            if answer.num_bytes <= room:
                fitting.append(answer)
                room -= answer.num_bytes
        repository.add(session, project_id, fitting)
    counters.ANSWERS_NOT_STORED.labels("project_full").inc(len(redacted) - len(fitting))
    return True


def _redact(answers: Sequence[NewAnswer], patterns: Sequence[str]) -> Sequence[NewAnswer]:
    if not patterns:
        return answers
    redactor = Redactor(patterns)

    def redact_json(text: str) -> str:
        return json.dumps(redactor.value(json.loads(text)), separators=(",", ":"))

    return [
        replace(
            answer,
            question=redact_json(answer.question),
            document=redact_json(answer.document),
            metadata=redactor.pairs(answer.metadata),
        )
        for answer in answers
    ]
