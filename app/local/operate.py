"""`falqon admin drain`, `requeue`, `backup` and `restore`."""

from pathlib import Path
from typing import Annotated

import typer

from app.local.commands import open_session, refuse, refusing_what_is_unusable


def drain(
    name: Annotated[str, typer.Argument(metavar="WORKER", help="A worker or a whole machine.")],
    now: Annotated[
        bool, typer.Option("--now", help="Stop its job after a checkpoint instead of finishing it.")
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="Accept jobs again.")] = False,
) -> None:
    """Let a worker take no more jobs."""
    from app.base.settings import load_settings
    from app.models import Drain
    from app.workers import service as workers

    if now and off:
        raise typer.BadParameter("give one of --now and --off")
    settings = load_settings()
    draining = None if off else Drain.STOP if now else Drain.FINISH
    with open_session(settings) as session:
        drained = workers.drain(session, settings, name, draining)
    for each in drained:
        typer.echo(_describe(each.worker.id, each.job.id if each.job else None, draining))


def _describe(worker_id: str, job_id: str | None, draining: str | None) -> str:
    if draining is None:
        return f"{worker_id} takes jobs again."
    if job_id is None:
        return f"{worker_id} takes no more jobs; it has none."
    if draining == "stop":
        return f"{worker_id} takes no more jobs; {job_id} goes back to the queue."
    return f"{worker_id} takes no more jobs; it finishes {job_id}."


def requeue(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="As `falqon jobs list` names it.")],
) -> None:
    """Take a job from its worker, or let one that waits after a loss start at once."""
    from app.base.settings import load_settings
    from app.jobs.requeue import requeue as requeue_job

    settings = load_settings()
    with open_session(settings) as session:
        done = requeue_job(session, job_id, settings)
    typer.echo(done)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    objects: Annotated[
        bool | None,
        typer.Option(
            "--objects/--no-objects",
            help="Copy the objects too, or only list them. Default: copy what is a local folder.",
        ),
    ] = None,
) -> None:
    """Copy the database as it is, then the objects; nothing has to be stopped for it."""
    from app.base.database import Database
    from app.base.settings import load_settings
    from app.base.storage import Storage
    from app.garbage.installation import CleaningRefused
    from app.local.backup import BackupFailed, back_up

    settings = load_settings()
    with refusing_what_is_unusable(settings):
        storage = Storage(settings.resolved_storage_url)
        if objects is None:
            objects = storage.local_root is not None
        # No migration: this may be the way back from an upgrade.
        database = Database(settings.resolved_database_url)
        try:
            written = back_up(database, storage, folder, with_objects=objects)
        except (BackupFailed, CleaningRefused) as error:
            refuse(error)
        except OSError as error:
            refuse(f"{folder} cannot be written: {error.strerror or error}.")
        finally:
            database.dispose()
    what = "copied" if objects else "listed, not copied"
    typer.echo(f"{folder} holds the database; {written.num_objects:,} objects are {what}.")
    typer.echo(
        "Keep FALQON_SESSION_SECRET (or the file session_secret of the data folder) with it.",
        err=True,
    )


def restore(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder written by `backup`.", exists=True)
    ],
) -> None:
    """Restore a backup into an installation that is empty, while API and workers are stopped."""
    from app.base.settings import load_settings
    from app.garbage.installation import CleaningRefused
    from app.local.backup import BackupFailed
    from app.local.restore import restore as restore_backup

    settings = load_settings()
    try:
        with refusing_what_is_unusable(settings):
            restored = restore_backup(settings, folder)
    except (BackupFailed, CleaningRefused) as error:
        refuse(error)
    except OSError as error:
        reason = f"{error.filename or folder}: {error.strerror or error}"
        refuse(f"{reason}. The restore is not complete; begin it once more.")
    typer.echo(f"Restored; {restored.num_objects:,} objects are there as they were listed.")
    for key in restored.missing[:20]:
        typer.echo(f"missing: {key}", err=True)
    if restored.missing:
        typer.echo(f"{len(restored.missing):,} objects are missing or not whole.", err=True)
        raise typer.Exit(1)
    typer.echo("Next: `falqon admin garbage --dry-run`, then API and workers.")
