"""Stored answers as an API process leaves them, without an engine."""

import json
from typing import Any

from app.base.database import Database
from app.base.ids import new_id
from app.models import AnswerKind
from app.models.answer_storage import AnswerStorage
from app.stored_answers.queue import NewAnswer
from app.stored_answers.storing import store
from tests.support.api import Tenant


def keep_answers(tenant: Tenant, **rules: Any) -> None:
    """Have the tenant's project store answers."""
    tenant.limit(answer_storage=AnswerStorage(**rules))


def new_answer(
    project_id: str,
    text: str = "four",
    *,
    question: str = "two and two?",
    model: str = "falqon-tiny",
    finish_reason: str = "stop",
    **metadata: str,
) -> NewAnswer:
    message = {"role": "assistant", "content": text}
    document = {
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    messages = [{"role": "user", "content": question}]
    return NewAnswer(
        new_id(""),
        AnswerKind.CHAT,
        project_id,
        "key_a",
        model,
        metadata,
        json.dumps({"messages": messages}),
        json.dumps(document),
    )


def add_answer(database: Database, project_id: str, *args: Any, **fields: Any) -> str:
    """Store an answer; return its public id."""
    answer = new_answer(project_id, *args, **fields)
    store(database, [answer])
    return f"chatcmpl-{answer.id}"
