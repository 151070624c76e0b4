"""Tools about the model that a job has made."""

import time
from typing import Annotated

from pydantic import Field

from app.client import text
from app.client.agents.arguments import (
    FileId,
    GraderNames,
    Id,
    JobId,
    ModelId,
    Question,
    SystemPrompt,
    WaitSeconds,
)
from app.client.agents.waiting import wait_until
from app.client.api import Api, Json, segment
from app.client.chat import ANSWER_TIMEOUT_SECONDS, CHAT_PATH, LOADING
from app.client.errors import ApiUnavailable
from app.client.evaluate import GRADERS

OUTSIDE_BUDGET = "counts against no budget"
LOADING_SECONDS = 120.0
MAX_LINKS = 50


def evaluate_job(
    api: Api,
    job_id: JobId,
    graders: GraderNames = ["same", "fuzzy_match"],  # noqa: B006
    file: Annotated[
        FileId | None,
        Field(description="rows that were not trained on; left out: what the job held out"),
    ] = None,
    max_rows: Annotated[int, Field(ge=1, le=1000)] = 200,
    max_tokens: Annotated[int, Field(ge=1, le=1024, description="of each answer")] = 256,
    wait_seconds: WaitSeconds = 30,
) -> Json:
    """Have the job's model and its base answer held-out rows, and compare them. COSTS MONEY, mostly
    cents: the seconds that the answers take on their device, added to the job's cost, with an
    agent's key at most what is left of its day. If it takes longer than wait_seconds,
    read_evaluation has the result.
    """
    path = f"/fine_tuning/jobs/{segment(job_id)}/evaluations"
    body: Json = {
        "graders": [GRADERS[name] for name in graders],
        "max_rows": max_rows,
        "max_tokens": max_tokens,
    }
    evaluation = api.post(path, body if file is None else body | {"file": file})
    return read_evaluation(api, job_id, evaluation["id"], wait_seconds)


def read_evaluation(
    api: Api, job_id: JobId, evaluation_id: Id, wait_seconds: WaitSeconds = 30
) -> Json:
    """Return an evaluation, after at most wait_seconds. Free."""
    path = f"/fine_tuning/jobs/{segment(job_id)}/evaluations/{segment(evaluation_id)}"
    evaluation = wait_until(
        lambda evaluation: evaluation["status"] != "in_progress",
        lambda: api.get(path, repeatable=True),
        wait_seconds,
    )
    result = evaluation["result"] or {"models": []}
    return {
        "cost": "not known yet" if evaluation["cost"] is None else text.usd(evaluation["cost"]),
        "evaluation_id": evaluation["id"],
        "status": evaluation["status"],
        "answers": f"{evaluation['num_answers']} of {evaluation['num_questions'] or '?'}",
        "summary": evaluation["summary"],
        "error": evaluation["error"],
        "scores": [
            {"model": model["model"], "role": model["role"], "scores": model["scores"]}
            for model in result["models"]
        ],
    }


def ask_model(
    api: Api,
    model: ModelId,
    question: Question,
    system: SystemPrompt | None = None,
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0,
) -> Json:
    """Ask a model one question. It counts against no budget. The first question of a model waits
    until it is loaded.
    """
    messages = [{"role": "user", "content": question}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    answer = _answer(api, body)
    choice = answer["choices"][0]
    return {
        "cost": OUTSIDE_BUDGET,
        "answer": choice["message"]["content"],
        "is_cut": choice["finish_reason"] == "length",
    }


def create_download_links(
    api: Api,
    model: ModelId,
    hours: Annotated[int, Field(ge=1, le=168, description="until the links expire")] = 24,
) -> Json:
    """Make a link to each file of a model; a link needs no API key and expires. Free."""
    path = f"/models/{segment(model)}"
    files = api.get(f"{path}/artifacts/manifest.json")["files"]
    links = {}
    for file in files[:MAX_LINKS]:
        body = {"name": file["name"], "expires_in_seconds": hours * 3600}
        links[file["name"]] = api.post(f"{path}/links", body)["url"]
    return {
        "cost": "free",
        "links": links,
        "more": max(0, len(files) - MAX_LINKS),
        "next": f"Whoever has a link has the file. With a key, `falqon download {model}` proves "
        "every sha256.",
    }


def _answer(api: Api, body: Json) -> Json:
    """Return the answer as soon as the model is loaded."""
    deadline = time.monotonic() + LOADING_SECONDS
    while True:
        try:
            return api.post(CHAT_PATH, body, silence_seconds=ANSWER_TIMEOUT_SECONDS)
        except ApiUnavailable as error:
            if error.body.get("code") != LOADING or time.monotonic() > deadline:
                raise
            time.sleep(max(1.0, error.wait_seconds))
