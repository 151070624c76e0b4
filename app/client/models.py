from functools import partial

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, ModelId, command
from app.client.exports import export_model

app = typer.Typer(no_args_is_help=True, help="Base models and fine-tuned models.")

BASES = {"falqon-tiny": "(a test model: it knows nothing)"}


@command(app, "list", "falqon models list")
def list_models(client: Client) -> None:
    """Show the models of the service, base and fine-tuned."""
    page = client.api.get("/models?adapters=true")
    rows = (
        (
            text.short_model(model["id"]),
            text.size(model.get("bytes") or 0),
            text.age(model["created"]),
            model.get("base_model") or BASES.get(model["id"], "(base)"),
        )
        for model in page["data"]
    )
    client.out.page(
        page,
        ("id", "size", "created", Column("made from", "shortened")),
        rows,
        "There are no models; an administrator adds base models (`falqon admin models add`).",
    )


@command(app, "show", "falqon models show MODEL")
def show_model(client: Client, model_id: ModelId) -> None:
    """Show one model and its files."""
    model = client.api.get(f"/models/{segment(model_id)}")
    client.out.show(model, partial(_show, client, model))


def _show(client: Client, model: Json) -> None:
    client.out.facts(
        {
            "id": model["id"],
            "made from": model.get("base_model"),
            "by job": model.get("fine_tuning_job"),
            "owner": model["owned_by"],
            "size": text.size(model.get("bytes") or 0),
            "created": text.moment(model["created"]),
            "asking": model.get("engine_note"),
        }
    )
    files = client.api.get(f"/models/{segment(model['id'])}/artifacts")["data"]
    client.out.table(
        ("file", "size", "sha256"),
        ((file["name"], text.size(file["bytes"]), file["sha256"]) for file in files),
    )


@command(app, "delete", "falqon models delete MODEL")
def delete_model(client: Client, model_id: ModelId) -> None:
    """Delete a fine-tuned model; with a key that administers the installation a base model, too."""
    answer = client.api.delete(f"/models/{segment(model_id)}")
    client.out.show(answer, f"{model_id} is deleted.")


command(app, "export", "falqon models export MODEL --format gguf")(export_model)
