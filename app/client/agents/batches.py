"""Tools about many questions to a model, answered when its engine has time."""

import json
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field

from app.client.agents.arguments import Id, ModelId, Question, SystemPrompt, WaitSeconds
from app.client.agents.waiting import wait_until
from app.client.api import ANSWER_TIMEOUT_SECONDS, Api, Json, segment
from app.client.batches import CHAT, ENDED

MAX_QUESTIONS = 500
MAX_SHOWN = 50  # answers at once
MAX_ANSWER_CHARACTERS = 2_000
COST = "cents: the seconds in which the engine answers, at most what is left of the key's day"
Questions = Annotated[list[Question], Field(min_length=1, max_length=MAX_QUESTIONS)]


def ask_many(
    api: Api,
    model: ModelId,
    questions: Questions,
    system: SystemPrompt | None = None,
    max_tokens: Annotated[int, Field(ge=1, le=4096, description="of each answer")] = 256,
) -> Json:
    """Ask a model many questions, behind those of waiting people. COSTS MONEY, mostly cents: the
    seconds in which its engine answers; with an agent's key at most what is left of its day.
    read_answers has the answers, within 24 hours.
    """
    first = [{"role": "system", "content": system}] if system else []
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": CHAT,
            "body": {
                "model": model,
                "messages": [*first, {"role": "user", "content": question}],
                "max_tokens": max_tokens,
            },
        }
        for number, question in enumerate(questions)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    requests = ("questions.jsonl", content)
    key = str(uuid4())
    file = api.send_file("/files", {"purpose": "batch"}, requests, idempotency_key=key)
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = api.post("/batches", body, idempotency_key=file["id"])
    return {
        "cost": COST,
        "batch_id": batch["id"],
        "status": batch["status"],
        "next": "read_answers",
    }


def read_answers(
    api: Api,
    batch_id: Id,
    first: Annotated[int, Field(ge=0, le=MAX_QUESTIONS, description="number of a question")] = 0,
    wait_seconds: WaitSeconds = 30,
) -> Json:
    """Return the state of ask_many after at most wait_seconds, and once it has ended up to 50
    answers from the `first` on, by the number of their question, the first being 0. Free.
    """
    path = f"/batches/{segment(batch_id)}"
    batch = wait_until(
        lambda batch: batch["status"] in ENDED,
        lambda: api.get(path, repeatable=True),
        wait_seconds,
    )
    answers = {
        number: text
        for file_id in (batch["output_file_id"], batch["error_file_id"])
        if file_id is not None
        for number, text in _lines_of(api, file_id)
    }
    numbers = sorted(number for number in answers if number >= first)
    shown = numbers[:MAX_SHOWN]
    return {
        "cost": "free",
        "status": batch["status"],
        "counts": batch["request_counts"],
        "reasons": [error["message"] for error in (batch["errors"] or {"data": []})["data"]],
        "answers": {str(number): answers[number] for number in shown},
        "next": _next(batch, numbers),
    }


def _lines_of(api: Api, file_id: str) -> Iterator[tuple[int, Any]]:
    """Yield the answers of a file, or why there is none, by the number of their question."""
    path = f"/files/{segment(file_id)}/content"
    with api.stream(path, silence_seconds=ANSWER_TIMEOUT_SECONDS) as response:
        for line in response.iter_lines():
            answer = json.loads(line)
            body = (answer["response"] or {}).get("body") or {}
            error = answer["error"] or body.get("error")
            if error is not None:
                yield int(answer["custom_id"]), {"error": error["message"]}
            else:
                text = body["choices"][0]["message"]["content"] or ""
                yield int(answer["custom_id"]), text[:MAX_ANSWER_CHARACTERS]


def _next(batch: Json, numbers: list[int]) -> str:
    if batch["status"] not in ENDED:
        return "read_answers again"
    if len(numbers) > MAX_SHOWN:
        return f"read_answers with first {numbers[MAX_SHOWN]}"
    return "nothing"
