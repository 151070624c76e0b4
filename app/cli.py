"""Command `falqon`. Imports wait for the command that needs them, so `--help` is quick."""

import errno
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.client import models
from app.client import root as client
from app.client.flags import show_flags_without_types
from app.dispatch.command import dispatch
from app.local import admin
from app.local.fit import fit
from app.local.reconcile import reconcile

PANEL = "Run a service on this machine"
Port = Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65_535)]
FixedPort = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65_535)]
# Errors of the output: a full disk, a quota, or a closed pipe.
UNPRINTABLE = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE)


class Commands(typer.Typer):
    """Command group that ends with a sentence instead of a traceback when the output cannot be
    written.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _open_closed_streams()
        try:
            try:
                return super().__call__(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in UNPRINTABLE or error.filename is not None:
                raise
            # Otherwise Python writes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if error.errno != errno.EPIPE:  # anything but a closed pipe
                sentence = f"Error: the output cannot be written: {error.strerror}."
                typer.echo(sentence, err=True)
            sys.exit(1)


def _open_closed_streams() -> None:
    """Open the standard streams that were closed before the start on the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


app = Commands(no_args_is_help=True, pretty_exceptions_enable=False)
client.join(app)
models.app.command("fit", epilog="Example: falqon models fit Qwen3-8B")(fit)
app.add_typer(admin.app, name="admin", rich_help_panel=PANEL)
app.command(rich_help_panel=PANEL, epilog="Example: falqon dispatch --to slurm")(dispatch)


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"falqon {importlib.metadata.version('falqon')}")
        raise typer.Exit


@app.callback()
def falqon(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """A self-hosted fine-tuning service."""


@app.command(rich_help_panel=PANEL, epilog="Example: falqon up --port 8001")
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: FixedPort = 8000,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Data folder. Default: FALQON_DATA_DIR or .falqon"),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Permit a --host reachable from other machines.")
    ] = False,
) -> None:
    """Run the whole service here: Valkey, API, a worker for jobs on each card, one for files."""
    from app.local import embedded

    raise typer.Exit(embedded.up(host, port, data_dir, allow_remote))


@app.command(rich_help_panel=PANEL, epilog="Example: falqon api --port 8001")
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    grace: Annotated[
        int, typer.Option(help="Seconds for open requests after a stop signal.", min=0)
    ] = 20,
) -> None:
    """Run the API alone in the foreground."""
    from app.http.server import serve

    serve(host, port, grace)


app.command("reconcile", rich_help_panel=PANEL, epilog="Example: falqon reconcile")(reconcile)


@app.command(rich_help_panel=PANEL, epilog="Example: falqon migrate")
def migrate() -> None:
    """Bring the database up to date, with the default project and the model falqon-tiny in it."""
    from app.base.settings import load_settings
    from app.garbage.installation import Mismatch
    from app.keys.service import WeakAdminKey
    from app.local.bootstrap import NotPrepared, prepare

    try:
        secret = prepare(load_settings())
    except (Mismatch, NotPrepared, WeakAdminKey) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    if secret is not None:
        typer.echo(f"API key, shown this once: {secret}")


@app.command(rich_help_panel=PANEL, epilog="Example: falqon check")
def check() -> None:
    """Check that settings, database, Redis and storage meet the needs of the service."""
    from app.base.settings import load_settings
    from app.client.columns import Column
    from app.client.output import Output
    from app.local import check

    results = list(check.check(load_settings()))
    rows = [
        (result.part, "ok", result.finding, "")
        if result.is_ok
        else (result.part, "WRONG", result.finding, result.advice)
        for result in results
    ]
    words = (Column("found", "wrapped"), Column("what to do", "wrapped"))
    Output(as_json=False).table(("check", "", *words), rows)
    if not all(result.is_ok for result in results):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL, epilog="Example: falqon doctor")
def doctor(
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder for the layer sizes. Default: Llama-7B"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON.")] = False,
) -> None:
    """Check that this machine can train: driver, compiler, kernels, attention, memory, a step."""
    from app.base.processes.subprocess_env import offline_environment
    from app.base.settings import load_settings

    command = [*load_settings().trainer_command, "doctor"]
    command += ["--model", str(model)] if model else []
    command += ["--json"] if as_json else []
    os.execvpe(command[0], command, offline_environment(os.environ))


@app.command(rich_help_panel=PANEL, epilog="Example: falqon worker --queue gpu")
def worker(
    queue: Annotated[
        Literal["gpu", "cpu"] | None, typer.Option(help="gpu executes jobs, cpu checks files.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Execute one job, then exit with a code for its outcome.")
    ] = False,
    job: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Execute this job, then exit as --once does."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(help="Seconds that --once and --job wait for a job.", min=0, max=86_400),
    ] = 60,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero",
            help=(
                "Exit --once and --job with 0 after any outcome of the job, unless the worker "
                "itself failed."
            ),
        ),
    ] = False,
    join: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Execute jobs of the service with this API."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="FALQON_WORKER_TOKEN", help="Worker token for --join."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="0,1",
            help="Cards or CPU slots for its jobs. Default: FALQON_CARDS or all",
        ),
    ] = None,
) -> None:
    """Run one worker in the foreground; on SIGTERM it first releases its job."""
    from app.base.processes.device import training_cards
    from app.base.settings import load_settings
    from app.notifier.queues import joined_command, once_command, worker_command

    settings = load_settings()  # wrong settings are reported here, before Celery's own errors
    if devices is not None:
        cards = _indices(devices)
        usable = training_cards(settings.model_copy(update={"cards": cards}))
        if missing := sorted(set(cards) - set(usable)):
            raise typer.BadParameter(f"--devices: {missing[0]} is not one that trains here")
        os.environ["FALQON_CARDS"] = str(list(cards))
    if join is not None:
        if queue is not None or once or job is not None:
            raise typer.BadParameter("--join goes with none of --queue, --once and --job")
        token = token or os.environ.get("FALQON_WORKER_TOKEN")  # .env may hold it
        if not token:
            raise typer.BadParameter("--join needs --token, or FALQON_WORKER_TOKEN")
        command = joined_command(join)
        os.execve(command[0], command, os.environ | {"FALQON_WORKER_TOKEN": token})
    queue = queue or ("gpu" if job else None)
    if queue is None:
        raise typer.BadParameter("give --queue, --job or --join")
    ends = once or job is not None
    if ends and queue != "gpu":
        raise typer.BadParameter("--once and --job execute jobs: they go with --queue gpu")
    if exit_zero and not ends:
        raise typer.BadParameter("--exit-zero goes with --once or --job")
    command = once_command(wait, exit_zero, job) if ends else worker_command(queue)
    os.execv(command[0], command)


def _indices(devices: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in devices.split(","))
    except ValueError:
        raise typer.BadParameter(f"--devices: '{devices}' is no list of numbers as 0,1") from None


show_flags_without_types(app)

if __name__ == "__main__":
    app()
