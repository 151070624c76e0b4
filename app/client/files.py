from pathlib import Path
from typing import Annotated

import typer

from app.base.terminal import plain
from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, FileId, Limit, argument, command, option
from app.client.download import file_content
from app.client.references import FILE, TRAINING_PURPOSE
from app.client.report import asked_for, readings, show_report
from app.client.uploading import checked, upload

app = typer.Typer(no_args_is_help=True, help="Training data on the service.")

Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until every line is checked; exit 1 if one is wrong.")
]


@command(app, "upload", "falqon files upload train.jsonl --wait")
def upload_file(
    client: Client,
    path: Annotated[
        Path,
        argument(help="A JSONL file, or a table: Parquet, CSV or a JSON list; each also in gzip."),
    ],
    wait: Wait = False,
) -> None:
    """Upload a file to train or validate with."""
    _show_checked(client, upload(client, path), wait=wait)


@command(app, "list", "falqon files list --purpose fine-tune-results")
def list_files(
    client: Client,
    purpose: Annotated[
        str,
        typer.Option(
            help="`fine-tune-results` is what jobs wrote; another of the API's purposes, or `all`."
        ),
    ] = TRAINING_PURPOSE,
    limit: Limit = 20,
    after: Annotated[str | None, option(help="Start after this file.")] = None,
) -> None:
    """Show the files to train or validate with, newest first."""
    filter_by = None if purpose == "all" else purpose
    page = client.api.get("/files", {"purpose": filter_by, "limit": limit, "after": after})
    rows = (
        (
            text.short_id(file["id"]),
            file["filename"],
            text.state(file["status"], file.get("status_details") or ""),
            text.size(file["bytes"]),
            text.age(file["created_at"]),
        )
        for file in page["data"]
    )
    client.out.page(
        page,
        ("id", Column("name", "shortened"), Column("status", "shortened"), "size", "created"),
        rows,
        "There are no such files; `falqon files upload PATH` adds one.",
    )


@command(app, "show", "falqon files show FILE")
def show_file(client: Client, file_id: FileId) -> None:
    """Show one file."""
    file = client.api.get(f"/files/{segment(file_id)}")
    client.out.show(
        file,
        {
            "id": file["id"],
            "name": file["filename"],
            "size": text.size(file["bytes"]),
            "purpose": file["purpose"],
            "status": _state(file),
            "created": text.moment(file["created_at"]),
            "expires": text.moment(file.get("expires_at")),
        }
        | dict(readings(file.get("report") or {})),
    )


@command(app, "report", "falqon files report FILE --model falqon-tiny")
def report_file(
    client: Client,
    file_id: FileId,
    model: Annotated[
        str | None, option(help="Also count tokens for this model, and wait for the result.")
    ] = None,
    max_seq_length: Annotated[int | None, option(help="As in the job; with --model.")] = None,
    validation_file: Annotated[
        str | None,
        option(metavar="FILE", help="Also find records shared with this file; with --model."),
        FILE,
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        option(
            metavar="JSON", help='As in the job, such as {"enable_thinking": false}; with --model.'
        ),
    ] = None,
) -> None:
    """Show what the check of a file found, by line and column; with --model also tokens, what is
    truncated, and copies.
    """
    query = {
        "model": model,
        "max_seq_length": max_seq_length,
        "validation_file": validation_file,
        "chat_template_kwargs": chat_template_kwargs,
    }
    show_report(client, asked_for(client, file_id, query))


@command(app, "check", "falqon files check FILE --wait")
def check_file(
    client: Client,
    file_id: FileId,
    wait: Wait = False,
) -> None:
    """Check a file again, for example after an upgrade that accepts more."""
    file = client.api.post(f"/files/{segment(file_id)}/check")
    _show_checked(client, file, wait=wait)


@command(app, "delete", "falqon files delete FILE")
def delete_file(client: Client, file_id: FileId) -> None:
    """Delete a file. One that a job still needs is kept."""
    answer = client.api.delete(f"/files/{segment(file_id)}")
    client.out.show(answer, f"{file_id} is deleted.")


@command(app, "download", "falqon files download FILE --output train.jsonl")
def download_file(
    client: Client,
    file_id: FileId,
    output: Annotated[
        Path | None, option(help="Output file. Default: its own name, in this folder.")
    ] = None,
) -> None:
    """Download the bytes of a file."""
    file = client.api.get(f"/files/{segment(file_id)}")
    target = output or Path(Path(plain(file["filename"])).name or file_id)
    file_content(client, file, target)
    client.out.say(f"{target}: {text.size(file['bytes'])}")
    client.out.show(file)


def _show_checked(client: Client, file: Json, *, wait: bool) -> None:
    if wait:
        file = checked(client, file)
    words = f"{file['id']}  {file['filename']}, {text.size(file['bytes'])}, {_state(file)}"
    client.out.show(file, words)


def _state(file: Json) -> str:
    details = file.get("status_details")
    if details:
        return f"{file['status']}: {details}"
    return str(file["status"])
