"""The command `falqon`. Imports wait until a command needs them, so that `--help` answers at once."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from app.database import Database
    from app.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A self-hosted fine-tuning service.", pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="The catalogue of base models.")
keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    data_dir: Annotated[Path | None, typer.Option(help="Everything the service keeps. Default: FALQON_DATA_DIR or .falqon")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Permit a --host that other machines can reach.")] = False,
) -> None:
    """Run the whole service here: Valkey, API, one worker for jobs and one for files."""
    from app import embedded

    raise typer.Exit(embedded.up(host, port, data_dir, allow_remote))


@app.command()
def migrate() -> None:
    """Bring the database up to date, with the default project and the model falqon-tiny in it."""
    from app.prepare import prepare
    from app.settings import Settings

    secret = prepare(Settings())
    if secret is not None:
        typer.echo(f"API key, shown this once: {secret}")


@app.command()
def worker(queue: Annotated[Literal["gpu", "cpu"], typer.Option(help="gpu executes jobs, cpu checks files.")]) -> None:
    """Run one worker in the foreground; SIGTERM lets it hand back its job first."""
    from app.broker import worker_command

    command = worker_command(queue)
    os.execv(command[0], command)


@models.command("add")
def add_model(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="The name that jobs will use; one slash is allowed.")],
    source: Annotated[str, typer.Option(help="A folder, a .gguf file, or hf:REPO on the Hugging Face Hub.")],
) -> None:
    """Add a base model to the catalogue."""
    from app.catalogue.importer import ModelNotAdded, add_base_model
    from app.settings import Settings
    from app.storage import Storage

    settings = Settings()
    try:
        added = add_base_model(_database(settings), Storage(settings.resolved_storage_url), settings, model_id, source)
    except ModelNotAdded as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{model_id} is in the catalogue." if added else f"{model_id} was in the catalogue already.")


@models.command("list")
def list_models() -> None:
    """Show the base models of the catalogue."""
    from rich.console import Console
    from rich.table import Table
    from sqlalchemy import select

    from app.models import Model
    from app.settings import Settings

    table = Table("id", "size", "added")
    with _database(Settings()).read() as session:
        for model in session.scalars(select(Model).where(Model.base_model_id.is_(None), Model.deleted_at.is_(None)).order_by(Model.id)):
            table.add_row(model.id, f"{model.bytes / 2**20:,.1f} MiB", f"{model.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[Literal["read", "write", "admin"], typer.Option(help="Each includes those before it.")] = "write",
) -> None:
    """Make an API key of the default project and show it once."""
    from app.keys import service
    from app.models import DEFAULT_PROJECT_ID, Scope
    from app.settings import Settings

    with _database(Settings()).transaction() as session:
        _, secret = service.create_key(session, DEFAULT_PROJECT_ID, name, Scope(scope))
    sys.stdout.write(f"{secret}\n")


def _database(settings: "Settings") -> "Database":
    """Up to date, so that these commands also work before the service has ever run."""
    from app import migrate
    from app.database import Database

    database = Database(settings.resolved_database_url)
    migrate.upgrade(database)
    return database


if __name__ == "__main__":
    app()
