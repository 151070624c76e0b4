"""Having a model made in another format, and waiting for it."""

from enum import StrEnum
from typing import Annotated

import typer

from app.client.api import segment
from app.client.command import Client, ModelId, option
from app.client.polling import wait_until_done

EXPORT_POLL_SECONDS = 1.0


class Format(StrEnum):
    LORA = "lora"
    BF16 = "bf16"
    GGUF = "gguf"
    Q4_1 = "q4_1"
    FP8 = "fp8"


def export_model(
    client: Client,
    model: ModelId,
    to: Annotated[
        Format,
        option(
            "--format",
            help="lora: adapter for PEFT; bf16: merged; gguf: for llama.cpp; "
            "q4_1: the INT4 weights that qa_lora trained, for llama.cpp; fp8: of a checkpoint.",
        ),
    ],
    wait: Annotated[bool, typer.Option(help="Wait until it is done; exit 1 if that fails.")] = True,
) -> None:
    """Export a fine-tuned model, or a checkpoint of its job, in another format; the result is a
    model of its own.
    """
    path = f"/models/{segment(model)}/exports"
    export = client.api.post(path, {"format": to.value}, repeatable=True)
    if wait:
        export = wait_until_done(
            client,
            f"{path}/{export['format']}",
            export,
            EXPORT_POLL_SECONDS,
            how_to_go_on="The export goes on; the same command shows how far it is.",
        )
    if export["status"] == "completed":
        exported = export["exported_model"]
        text = f"{exported} is there; `falqon download '{exported}'` fetches it."
    else:
        text = f"{export['id']} is in progress; the same command shows how far it is."
    client.out.show(export, text)
