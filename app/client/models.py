from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.cleaning import BaseModel, CreatedDays, Search, Yes, days_ago, delete_each
from app.client.columns import Column
from app.client.command import Client, ModelId, command, option
from app.client.exports import describe_cost, export_model, wait_for_export


class ServeAs(StrEnum):
    MERGED = "merged"
    SHARED = "shared"


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
            "replicas": model.get("replicas"),
            "answers": _answering(model),
        }
    )
    files = client.api.get(f"/models/{segment(model['id'])}/artifacts")["data"]
    client.out.table(
        ("file", "size", "sha256"),
        ((file["name"], text.size(file["bytes"]), file["sha256"]) for file in files),
    )


@command(app, "serve", "falqon models serve MODEL --as shared")
def serve_model(
    client: Client,
    model_id: ModelId,
    serve_as: Annotated[
        ServeAs,
        option(
            "--as",
            help="merged: from weights of its own, exactly those trained; shared: as an adapter on "
            "its base, which models share in memory.",
        ),
    ],
    wait: Annotated[
        bool, typer.Option(help="Wait until the adapter is measured; exit 1 if that fails.")
    ] = True,
) -> None:
    """Choose how a fine-tuned model answers."""
    path = f"/models/{segment(model_id)}"
    model = client.api.post(path, {"serve_as": serve_as.value}, repeatable=True)
    if wait and serve_as == ServeAs.SHARED and model["shared_form"] is None:
        wait_for_export(client, f"{path}/exports/gguf_lora")
        model = client.api.get(path)
    client.out.show(model, f"{model_id} answers {_answering(model)}.")


def _answering(model: Json) -> str | None:
    """Return how the model of a job answers, with the distance of an adapter."""
    if shared := model.get("shared_form"):
        return f"shared, as {shared['model']}{describe_cost(shared['bound'])}"
    if model.get("serve_as") == "shared":
        return "merged, until its adapter is made and measured"
    return model.get("serve_as")


@command(app, "delete", "falqon models delete MODEL")
def delete_model(client: Client, model_id: ModelId) -> None:
    """Delete a fine-tuned model; with a key that administers the installation a base model, too."""
    answer = client.api.delete(f"/models/{segment(model_id)}")
    client.out.show(answer, f"{model_id} is deleted.")


@command(app, "pin", "falqon models pin MODEL")
def pin_model(client: Client, model_id: ModelId) -> None:
    """Let a fine-tuned model never expire."""
    _set_pinned(client, model_id, pinned=True)


@command(app, "unpin", "falqon models unpin MODEL")
def unpin_model(client: Client, model_id: ModelId) -> None:
    """Let a fine-tuned model expire again, if nobody uses it."""
    _set_pinned(client, model_id, pinned=False)


def _set_pinned(client: Client, model_id: str, *, pinned: bool) -> None:
    path = f"/models/{segment(model_id)}/retention"
    answer = client.api.post(path, {"pinned": pinned})
    client.out.show(answer, f"{model_id} is {'pinned' if pinned else 'not pinned'}.")


@command(app, "replicas", "falqon models replicas MODEL 2")
def set_replicas(
    client: Client,
    model_id: ModelId,
    replicas: Annotated[int, typer.Argument(min=1, help="Engines that answer at once.")],
) -> None:
    """Set how many engines answer for a model at once, each on a cpu worker of its own."""
    answer = client.api.post(f"/models/{segment(model_id)}", {"replicas": replicas})
    engines = "1 engine answers" if replicas == 1 else f"up to {replicas} engines answer"
    client.out.show(answer, f"{engines} for {model_id}.")


@command(app, "clean", "falqon models clean --unused-days 90")
def clean_models(
    client: Client,
    unused_days: Annotated[
        int | None, option(min=1, help="Neither asked nor downloaded for so long.")
    ] = None,
    search: Search = None,
    created_days: CreatedDays = None,
    base_model: BaseModel = None,
    yes: Yes = False,
) -> None:
    """Delete the fine-tuned models that meet all criteria; those in use stay."""
    criteria = {"search": search, "base_model": base_model, "unused_since": days_ago(unused_days)}
    delete_each(client, "/falqon/deletions/models", criteria, created_days, yes=yes)


command(app, "export", "falqon models export MODEL --format gguf")(export_model)
