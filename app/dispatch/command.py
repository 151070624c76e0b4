"""`falqon dispatch`."""

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from app.dispatch.starts import Scheduler

COMMANDS = ("sbatch", "squeue", "scancel")
OF_SLURM = ("script", "account", "partition")
OF_KUEUE = ("queue_name", "priority_class", "template", "namespace", "server")


def dispatch(
    context: typer.Context,
    to: Annotated[Literal["slurm", "kueue"], typer.Option(help="The scheduler.")],
    script: Annotated[Path, typer.Option(help="Slurm: the batch script of a worker.")] = Path(
        "deploy/worker.sbatch"
    ),
    account: Annotated[
        str, typer.Option(help="Slurm: account; {project} stands for the project's name.")
    ] = "",
    partition: Annotated[str, typer.Option(help="Slurm: partition.")] = "",
    queue_name: Annotated[
        str, typer.Option(help="Kueue: LocalQueue; {project} stands for the project's name.")
    ] = "",
    priority_class: Annotated[
        str, typer.Option(help="Kueue: WorkloadPriorityClass of every start.")
    ] = "",
    template: Annotated[
        str, typer.Option(help="Kueue: PodTemplate of a worker with one card.")
    ] = "falqon-worker",
    namespace: Annotated[str, typer.Option(help="Kueue: namespace. Default: this pod's")] = "",
    server: Annotated[
        str, typer.Option(metavar="URL", help="Kueue: Kubernetes' API through `kubectl proxy`.")
    ] = "",
) -> None:
    """Hand each waiting job to Slurm or Kueue as a worker of its own."""
    _refuse_others(context, OF_KUEUE if to == "slurm" else OF_SLURM, to)
    for name, text in (("--account", account), ("--queue-name", queue_name)):
        _check_pattern(name, text)
    if to == "slurm":
        scheduler = _slurm(script, account, partition)
    else:
        scheduler = _kueue(server, namespace, queue_name, priority_class, template)
    _dispatch_to(scheduler)


def _dispatch_to(scheduler: "Scheduler") -> None:
    import os

    from app.base import logging
    from app.base.database import Database
    from app.base.processes.stop_signals import set_at_stop_signals
    from app.base.settings import load_settings
    from app.dispatch.dispatcher import Dispatcher

    settings = load_settings()
    logging.configure(logging.secrets_of(settings, os.environ))
    ended = threading.Event()
    set_at_stop_signals(ended)
    database = Database(settings.resolved_database_url)
    try:
        Dispatcher(database, scheduler, settings.poll.total_seconds()).run(ended)
    finally:
        database.dispose()


def _slurm(script: Path, account: str, partition: str) -> "Scheduler":
    from app.dispatch.slurm import Slurm

    if not script.is_file():
        _refuse(f"--script: there is no file {script}")
    for command in COMMANDS:
        if shutil.which(command) is None:
            _refuse(f"--to slurm: `{command}` is not on the PATH of this machine")
    return Slurm(script.resolve(), account, partition)


def _kueue(
    server: str, namespace: str, queue_name: str, priority_class: str, template: str
) -> "Scheduler":
    from app.dispatch.kubernetes import Api, NoCluster
    from app.dispatch.kueue import Kueue

    if not queue_name:
        _refuse("--to kueue needs --queue-name, the LocalQueue that admits the workers")
    if server and not server.startswith(("http://", "https://")):
        _refuse(f"--server: '{server}' is no address such as http://127.0.0.1:8001")
    try:
        api = Api(server, namespace)
    except NoCluster as error:
        _refuse(f"--to kueue: {error}")
    return Kueue(api, queue_name, priority_class, template)


def _refuse_others(context: typer.Context, names: tuple[str, ...], to: str) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            _refuse(f"--{name.replace('_', '-')} does not go with --to {to}")


def _check_pattern(option: str, text: str) -> None:
    from app.dispatch.starts import PROJECT

    rest = text.replace(PROJECT, "")
    if "{" in rest or "}" in rest or any(character.isspace() for character in text):
        _refuse(f"{option}: '{text}' may hold {PROJECT}, and no space or other brace")


def _refuse(sentence: str) -> NoReturn:
    raise typer.BadParameter(sentence)
