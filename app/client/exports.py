"""Having a model made in another format, and waiting for it."""

import time
from enum import StrEnum
from typing import Annotated

import typer

from app.client.api import Json, segment
from app.client.command import Client
from app.client.errors import Refused
from app.client.polling import poll

EXPORT_POLL_SECONDS = 1.0


class Format(StrEnum):
    LORA = "lora"
    BF16 = "bf16"
    GGUF = "gguf"
    Q4_1 = "q4_1"
    FP8 = "fp8"


def export_model(
    client: Client,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A fine-tuned model, or a checkpoint of its job.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Format,
        typer.Option(
            "--format",
            help="lora: adapter for PEFT; bf16: merged; gguf: for llama.cpp; "
            "q4_1: the INT4 weights that qa_lora trained, for llama.cpp; fp8: of a checkpoint.",
            show_default=False,
        ),
    ],
    wait: Annotated[bool, typer.Option(help="Wait until it is done; exit 1 if that fails.")] = True,
) -> None:
    """Export a model in another format; the result is a model of its own."""
    path = f"/models/{segment(model)}/exports"
    export = client.api.post(path, {"format": to.value}, repeatable=True)
    if wait:
        export = _ended(client, path, export)
    if export["status"] == "completed":
        exported = export["exported_model"]
        text = f"{exported} is there; `falqon download '{exported}'` fetches it."
    else:
        text = f"{export['id']} is in progress; the same command shows how far it is."
    client.out.show(export, text)


def _ended(client: Client, path: str, export: Json) -> Json:
    while export["status"] == "in_progress":
        time.sleep(EXPORT_POLL_SECONDS)
        export = poll(
            client,
            f"{path}/{export['format']}",
            how_to_go_on="The export goes on; the same command shows how far it is.",
        )
    if error := export["error"]:
        raise Refused(
            error["message"],
            f"code {error['code']}",
            body=error | {"type": "invalid_request_error", "param": None},
        )
    return export
