"""`falqon admin`: what reaches into the database and storage of the installation on this machine,
without its API.
"""

import sys
from typing import Annotated, Literal

import typer

from app.local import operate, users, worker_tokens
from app.local.commands import open_database, open_session, refuse

MAX_LISTED = 1000

app = typer.Typer(
    no_args_is_help=True, help="The installation on this machine, with or without its API running."
)
models = typer.Typer(no_args_is_help=True, help="The catalogue of base models.")
keys = typer.Typer(no_args_is_help=True, help="API keys, also without an existing key.")
app.add_typer(models, name="models")
engines = typer.Typer(no_args_is_help=True, help="Loaded models.")
app.add_typer(keys, name="keys")
app.add_typer(engines, name="engines")
app.add_typer(worker_tokens.app, name="workers")
app.add_typer(users.app, name="users")


LoadedModel = Annotated[str, typer.Argument(metavar="MODEL", help="As `list` names it.")]


@models.command("add", epilog="Example: falqon admin models add qwen --source hf:Qwen/Qwen2.5-0.5B")
def add_model(
    model_id: Annotated[
        str, typer.Argument(metavar="ID", help="Name for jobs; one slash is allowed.")
    ],
    source: Annotated[
        str, typer.Option(help="A folder, a .gguf file, or hf:REPO on the Hugging Face Hub.")
    ],
) -> None:
    """Add a base model to the catalogue."""
    from app.base.settings import load_settings
    from app.base.storage import Storage
    from app.catalogue.importer import ModelNotAdded, add_base_model
    from app.garbage import installation
    from app.garbage.installation import Mismatch

    settings = load_settings()
    try:
        with open_database(settings) as database:
            storage = Storage(settings.resolved_storage_url)
            installation.mark(database, storage)
            conversions = add_base_model(database, storage, settings, model_id, source)
    except (ModelNotAdded, Mismatch) as error:
        refuse(error)
    if conversions is None:
        typer.echo(f"{model_id} was in the catalogue already.")
        return
    typer.echo(f"{model_id} is in the catalogue.")
    for conversion in conversions:
        typer.echo(conversion)


@models.command("list", epilog="Example: falqon admin models list")
def list_models() -> None:
    """List the base models, oldest first."""
    from app.base.terminal import one_line
    from app.base.text import minute, size
    from app.catalogue import service as catalogue

    with open_session(writes=False) as session:
        bases = catalogue.newest(session, None, limit=MAX_LISTED)
    for model in reversed(bases.models):
        typer.echo(f"{one_line(model.id)}  {size(model.bytes)}  {minute(model.created)}")
    if bases.num_models > len(bases.models):
        typer.echo(f"and {bases.num_models - len(bases.models)} older ones", err=True)


@models.command("remove", epilog="Example: falqon admin models remove qwen")
def remove_model(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` names it.")],
) -> None:
    """Remove a base model that no unfinished job needs; its fine-tuned models stay."""
    from app.catalogue import service as catalogue
    from app.models import DEFAULT_PROJECT_ID

    with open_session() as session:
        catalogue.delete_base(session, DEFAULT_PROJECT_ID, model_id)
    typer.echo(f"{model_id} is removed; its files follow within an hour, by a running API.")


@keys.command("create", epilog="Example: falqon admin keys create laptop")
def create_key(
    name: Annotated[str, typer.Argument(help="Purpose of the key.")],
    scope: Annotated[
        Literal["metrics", "infer", "read", "write", "admin"],
        typer.Option(help="Scope; each includes those before it."),
    ] = "write",
) -> None:
    """Make an API key of the default project and show it once."""
    from app.keys import service
    from app.models import DEFAULT_PROJECT_ID, Scope

    with open_session() as session:
        service.ensure_default_project(session)
        _, secret = service.add_key(session, DEFAULT_PROJECT_ID, name, Scope(scope))
    sys.stdout.write(f"{secret}\n")


@engines.command("list", epilog="Example: falqon admin engines list")
def list_engines() -> None:
    """List loaded and loading models, last used first."""
    from app.base.terminal import one_line
    from app.base.text import minute, size
    from app.inference import engines as loaded

    with open_session(writes=False) as session:
        rows = loaded.list_loaded(session, None)
    for engine in rows:
        kept = "  kept loaded" if engine.keep_loaded else ""
        memory = size(engine.memory_bytes or 0)
        used_at = minute(int(engine.used_at.timestamp()))
        number = f" replica {engine.replica + 1}" if engine.replica else ""
        model = f"{one_line(engine.model_id)}{number}"
        typer.echo(f"{model}  {engine.state}  {memory}  {used_at}{kept}")


@engines.command("keep", epilog="Example: falqon admin engines keep MODEL --off")
def keep_engine(
    model_id: LoadedModel,
    keep: Annotated[
        bool, typer.Option("--on/--off", help="Keep it loaded or allow unloading.")
    ] = True,
) -> None:
    """Keep a model loaded: it makes no room for others, and idle time does not end it."""
    from app.inference import engines as loaded

    with open_session() as session:
        loaded.keep_loaded(session, model_id, keep)
    typer.echo(f"{model_id} {'stays loaded' if keep else 'may be unloaded'}.")


@engines.command("unload", epilog="Example: falqon admin engines unload MODEL")
def unload_engine(model_id: LoadedModel) -> None:
    """Unload a model; the next question loads it again."""
    from app.inference import engines as loaded

    with open_session() as session:
        loaded.unload(session, model_id)
    typer.echo(f"{model_id} ends, where a worker has it with that one's next heartbeat.")


@app.command("garbage", epilog="Example: falqon admin garbage --dry-run")
def collect_garbage(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List objects without a row; remove nothing.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Let it go, also what is held back.")
    ] = False,
) -> None:
    """Search the storage for objects without a row in the database."""
    from app.base.settings import load_settings
    from app.base.storage import Storage
    from app.garbage import collector
    from app.garbage.installation import CleaningRefused

    if dry_run == confirm:
        raise typer.BadParameter("give one of --dry-run and --confirm")
    settings = load_settings()
    try:
        with open_database(settings) as database:
            storage = Storage(settings.resolved_storage_url)
            if dry_run:
                typer.echo(collector.describe(database, storage))
                return
            count = collector.confirm(database, storage)
    except CleaningRefused as error:
        refuse(error)
    typer.echo(f"Objects without a row, to be removed in an hour by a running API: {count:,}")


@app.command("adopt-storage", epilog="Example: falqon admin adopt-storage")
def adopt_storage() -> None:
    """Make the storage this database's own, after a restore or a copy; nothing of it is removed
    before `garbage --confirm`.
    """
    from app.base.settings import load_settings
    from app.base.storage import Storage
    from app.garbage import installation
    from app.garbage.installation import CleaningRefused

    settings = load_settings()
    try:
        with open_database(settings) as database:
            storage = Storage(settings.resolved_storage_url)
            adopted = installation.adopt(database, storage)
    except CleaningRefused as error:
        refuse(error)
    typer.echo(
        f"{storage.address} {'belongs' if adopted else 'belonged already'} to this database."
    )


app.command("drain", epilog="Example: falqon admin drain WORKER")(operate.drain)
app.command("requeue", epilog="Example: falqon admin requeue JOB")(operate.requeue)
app.command("backup", epilog="Example: falqon admin backup backup-of-today")(operate.backup)
app.command("restore", epilog="Example: falqon admin restore backup-of-today")(operate.restore)
