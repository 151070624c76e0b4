"""`falqon admin`: what reaches into the database and storage of the installation on this machine, without its API."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from app.database import Database
    from app.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The installation on this machine, with or without its API running.")
models = typer.Typer(no_args_is_help=True, help="The catalogue of base models.")
keys = typer.Typer(no_args_is_help=True, help="API keys, for when there is none to make one with.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")


@models.command("add")
def add_model(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="The name that jobs will use; one slash is allowed.")],
    source: Annotated[str, typer.Option(help="A folder, a .gguf file, or hf:REPO on the Hugging Face Hub.")],
) -> None:
    """Add a base model to the catalogue."""
    from app.catalogue.importer import ModelNotAdded, add_base_model
    from app.client.text import plain
    from app.settings import load_settings
    from app.storage import Storage

    settings = load_settings()
    try:
        added = add_base_model(_database(settings), Storage(settings.resolved_storage_url), settings, model_id, source)
    except ModelNotAdded as error:
        typer.echo(plain(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{model_id} is in the catalogue." if added else f"{model_id} was in the catalogue already.")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[Literal["read", "write", "admin"], typer.Option(help="Each includes those before it.")] = "write",
) -> None:
    """Make an API key of the default project and show it once."""
    from app.keys import service
    from app.models import DEFAULT_PROJECT_ID, Scope
    from app.settings import load_settings

    with _database(load_settings()).transaction() as session:
        _, secret = service.create_key(session, DEFAULT_PROJECT_ID, name, Scope(scope))
    sys.stdout.write(f"{secret}\n")


def _database(settings: "Settings") -> "Database":
    """Up to date, so that these commands also work before the service has ever run."""
    from app import migrate
    from app.database import Database

    database = Database(settings.resolved_database_url)
    migrate.upgrade(database)
    return database
