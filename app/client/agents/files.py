"""Tools about data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field

from app.client import uploading
from app.client.agents.arguments import FileId, FileName, FileText, ModelId
from app.client.agents.waiting import wait_until
from app.client.api import Api, Json, segment
from app.client.command import Client
from app.client.errors import Misused, Refused
from app.client.output import Output
from app.client.references import TRAINING_PURPOSE
from app.client.report import written_tokens

CHECK_SECONDS = 60.0
# Whoever misleads an agent could otherwise have it send keys and passwords.
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".gz")
MAX_ERRORS = 20
MAX_PREVIEWS = 5
MAX_PREVIEW_CHARACTERS = 8_000
CHECK_FACTS = ("shape", "num_records", "num_learned_turns", "num_errors", "ignored_fields")
TOKEN_FACTS = (
    "tokens_per_epoch",
    "target_tokens_per_epoch",
    "longest",
    "max_seq_length",
    "truncated",
    "tokens_cut",
    "records_without_targets",
    "bad_records",
)


def upload_text(api: Api, filename: FileName, content: FileText) -> Json:
    """Upload training or validation data that is given here, and check it. Free. The answer names
    the id of the file, and each bad line with what to do.
    """
    file = api.send_file(
        "/files",
        {"purpose": TRAINING_PURPOSE},
        (filename, content.encode()),
        idempotency_key=str(uuid4()),
    )
    return check_file(api, file["id"])


def upload_path(
    api: Api,
    path: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="of a JSONL, Parquet, CSV or JSON file on this machine",
        ),
    ],
) -> Json:
    """Upload a training or validation file of this machine, and check it. Free. The answer names
    the id of the file, and each bad line with what to do.
    """
    if not path.lower().endswith(DATA_SUFFIXES):
        raise Misused(
            f"'{path}' is not named as data is: {', '.join(DATA_SUFFIXES)}. Nothing was read."
        )
    file = uploading.upload(Client(api, Output(as_json=True)), Path(path))
    return check_file(api, file["id"])


def check_file(api: Api, file_id: FileId, model: ModelId | None = None) -> Json:
    """Report on a file: its shape and its errors by line; with a model also its tokens, truncated
    records and warnings. Free. Waits up to a minute for the result.
    """
    report = _read_report(api, file_id, model)
    answer = {"cost": "free", "file_id": file_id, "status": report["status"]}
    if (check := report["report"]) is not None:
        answer |= {name: check[name] for name in CHECK_FACTS if check.get(name)}
        answer["errors"] = check["errors"][:MAX_ERRORS]
    for inspection in report["inspections"]:
        answer["tokens"] = _tokens_of(inspection)
    answer["next"] = _next(report)
    return answer


def preview_loss_mask(api: Api, file_id: FileId, model: ModelId) -> Json:
    """Show the first records token by token as the model reads them, with what is learned between
    « and »; the rest is context. Free. Waits up to a minute for the result.
    """
    report = _read_report(api, file_id, model)
    answer = {"cost": "free", "file_id": file_id, "model": model}
    (inspection,) = report["inspections"]
    if inspection["result"] is None:
        return answer | _tokens_of(inspection)
    records = inspection["result"]["preview"][:MAX_PREVIEWS]
    return answer | {"records": [dict(_preview(record)) for record in records]}


def _read_report(api: Api, file_id: str, model: str | None) -> Json:
    """Return the report once the check of the file, and its count for the model, have ended."""
    path = f"/files/{segment(file_id)}/report"

    def is_over(report: Json) -> bool:
        counted = all(each["status"] != "in_progress" for each in report["inspections"])
        return report["status"] != "uploaded" and counted

    report = wait_until(is_over, lambda: api.get(path, repeatable=True), CHECK_SECONDS)
    if model is None:
        return report | {"inspections": []}
    if report["status"] == "error":
        raise Refused(
            f"{file_id} is not valid; no tokens can be counted.", "check_file lists its errors."
        )
    query = {"model": model}
    return wait_until(is_over, lambda: api.get(path, query, repeatable=True), CHECK_SECONDS)


def _tokens_of(inspection: Json) -> Json:
    result = inspection["result"]
    if result is None:
        error = inspection["error"]
        message = error["message"] if error else "The count goes on; ask again."
        return {"status": inspection["status"], "message": message}
    facts: Json = {name: result[name] for name in TOKEN_FACTS if result.get(name) is not None}
    facts["copies"] = result["duplicates"]["exact"]["records"]
    facts["warnings"] = [warning["message"] for warning in result.get("warnings", ())]
    return facts


def _preview(record: Json) -> Iterator[tuple[str, Any]]:
    yield "line", record["line"]
    yield "tokens", written_tokens(record["tokens"])[:MAX_PREVIEW_CHARACTERS]
    if record["rejected"]:
        yield "rejected", written_tokens(record["rejected"])[:MAX_PREVIEW_CHARACTERS]


def _next(report: Json) -> str:
    match report["status"]:
        case "uploaded":
            return "The check goes on; call check_file again."
        case "error":
            return "Correct these lines and upload the file again."
    return "preview_loss_mask with a model of list_models, then estimate_job."
