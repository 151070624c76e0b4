"""Having a model made in another format, and waiting for it."""

from enum import StrEnum
from typing import Annotated

import typer

from app.client.api import Json, segment
from app.client.command import Client, ModelId, option
from app.client.polling import wait_until_done

EXPORT_POLL_SECONDS = 1.0


class Format(StrEnum):
    LORA = "lora"
    GGUF_LORA = "gguf_lora"
    BF16 = "bf16"
    GGUF = "gguf"
    GGUF_Q8_0 = "gguf_q8_0"
    GGUF_Q5_K_M = "gguf_q5_k_m"
    GGUF_Q4_K_M = "gguf_q4_k_m"
    GGUF_Q4_0 = "gguf_q4_0"
    Q4_1 = "q4_1"
    FP8 = "fp8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    Q4_0 = "q4_0"
    Q8_0 = "q8_0"


def export_model(
    client: Client,
    model: ModelId,
    to: Annotated[
        Format,
        option(
            "--format",
            help="lora: adapter for PEFT, gguf_lora: for llama.cpp; bf16: merged; "
            "gguf: for llama.cpp and Ollama, gguf_…: in 8, 5 or 4 bits; "
            "gguf_q4_0: the codes of weights in Q4_0; q4_1: the INT4 weights that qa_lora trained; "
            "fp8, nvfp4, mxfp4, q4_0, q8_0: of a checkpoint, as it was trained.",
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
        export = wait_for_export(client, f"{path}/{export['format']}", export)
    if export["status"] == "completed":
        exported = export["exported_model"]
        cost = describe_cost(export.get("rounding"))
        text = f"{exported} is there{cost}; `falqon download '{exported}'` fetches it."
    else:
        text = f"{export['id']} is in progress; the same command shows how far it is."
    client.out.show(export, text)


def wait_for_export(client: Client, path: str, export: Json | None = None) -> Json:
    """Return an export once it is done; exit 1 if it fails."""
    return wait_until_done(
        client,
        path,
        export or client.api.get(path),
        EXPORT_POLL_SECONDS,
        how_to_go_on="The export goes on; the same command shows how far it is.",
    )


def describe_cost(rounding: Json | None) -> str:
    """Return how far a form is from the FP8 model, if that was measured."""
    if not rounding:
        return ""
    rows = rounding["held_out"]["num_rows"]
    losses = f"loss {rounding['loss']:.4f}, in FP8 {rounding['loss_fp8']:.4f}"
    return f" ({losses}; {rounding['same_tokens']:.1%} of the tokens are the same, {rows} rows)"
