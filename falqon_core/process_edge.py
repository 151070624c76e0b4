"""The edge of a command's process: every error becomes a message and an exit code here, and only
here. An unexpected exception tells the user nothing but that it happened; its traceback goes to
stderr.
"""

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from pydantic import ValidationError

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import (
    CertificateMismatch,
    ConfigError,
    FalqonError,
    OutOfMemory,
    UserError,
    as_falqon_error,
)
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.contract.messages import ExitCode, Failed, TrainerMessage
from falqon_core.train.allocator import choose_allocator
from falqon_core.train.report import MessagePort, Port, describe, person_port


def create_ports(message_fd: int | None) -> list[Port]:
    """Return the ports of this process: messages to a supervisor, or lines for people."""
    if message_fd is None:
        return [person_port(discreet=False)]
    return [person_port(discreet=True), MessagePort(message_fd)]


def read_config(path: Path) -> TrainConfig:
    """Read a training's configuration. Raises `ConfigError` for no file or a wrong field."""
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        names = [str(part) for part in first["loc"] if part != "recipe"]
        param = ".".join(names) or message.partition(":")[0]
        raise ConfigError(
            message if message.startswith(param) else f"{param}: {message}", param
        ) from None


def check_folder(output: Path, param: str = "output") -> None:
    """Raise `ConfigError` where `output` is no folder, or one that may not be written to."""
    place = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ConfigError(f"{param}: {place} is no folder; choose another one", param)
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{param}: {place} may not be written to; choose another folder", param)


def check_output(output: Path, *inputs: Path | None) -> None:
    """Raise `ConfigError` for a folder that may not be replaced: one that holds what is read, or
    anything else than what was exported there before; or one that no folder can hold.
    """
    check_folder(output.parent)
    holder = output.resolve()
    for path in filter(None, inputs):
        if path.resolve().is_relative_to(holder):
            raise ConfigError(
                f"output: it would take the place of {path}, which is read; choose another folder",
                "output",
            )
    if output.exists() and not (output / SHA256SUMS).is_file() and not _is_empty(output):
        raise ConfigError(
            f"output: {output} is there and no exported model; choose another folder", "output"
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def prepare_process(offline: bool) -> None:
    """Prepare the process before transformers is imported: no network unless asked for, no progress
    bars and notices of its own.
    """
    prepare_environment(offline)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def prepare_environment(offline: bool) -> None:
    """Set the variables of torch, transformers and OpenMP, for a training as for `doctor`."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Only jobs that compute with bitsandbytes load it; it then warns of kernels that none calls.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # Threads that wait may spin only briefly: as soon as anything else runs on this machine they
    # take the core from the thread they wait for. Eight steps of SmolLM2 on two cores, quiet and
    # beside one busy process: spinning 14 and 79 s, sleeping at once (OMP_WAIT_POLICY=PASSIVE) 24
    # and 22 s, spinning this long 15 and 13 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    choose_allocator()
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def use_utf8() -> None:
    """Read and write UTF-8 on stdin and stdout in every locale, for JSON to and from programs."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # A test may have replaced it.
            stream.reconfigure(encoding="utf-8")


@contextmanager
def errors_become_exit_codes(send: Callable[[TrainerMessage], None]) -> Iterator[None]:
    """Report an error as a message, and end the process with the code of its kind."""
    try:
        yield
    except Exception as error:  # The top-level handler of the process.
        failure = as_falqon_error(error)
        if not isinstance(failure, UserError):
            traceback.print_exc()
        send(Failed(code=failure.code, message=str(failure), param=failure.param))
        raise typer.Exit(exit_code_of(failure)) from None


def exit_code_of(error: FalqonError) -> ExitCode:
    """Return the exit code of an error's kind."""
    if isinstance(error, UserError):
        return ExitCode.USER_ERROR
    if isinstance(error, CertificateMismatch):
        return ExitCode.CERTIFICATE_MISMATCH
    if isinstance(error, OutOfMemory):
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.INTERNAL


def to_stderr(message: TrainerMessage) -> None:
    """Write a message as a line on stderr."""
    sys.stderr.write(describe(message) + "\n")
