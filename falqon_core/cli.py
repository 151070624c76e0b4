"""`python -m falqon_core`: the trainer as a command. Paths and numbers in, progress and exit codes out.

Exit codes of every command: 0 done; 65 the configuration, data or model is at fault (trying again is useless); 70 a fault of ours
or of the machine; 71 out of memory; 75 stopped on request (SIGTERM, SIGINT, or the parent process is gone), the same command continues.
"""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from falqon_core.spec.config import TrainConfig
from falqon_core.spec.errors import ConfigError, FalqonError, OutOfMemory, UserError
from falqon_core.spec.messages import ExitCode, Failed, Message, encode
from falqon_core.terminal import Terminal

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ConfigOption = Annotated[Path, typer.Option("--config", help="JSON file of a TrainConfig", exists=True, dir_okay=False)]


@app.command()
def train(
    config: ConfigOption,
    output: Annotated[Path, typer.Option(help="checkpoints/ and model/ go here; an interrupted training continues from it")],
    message_fd: Annotated[int | None, typer.Option(help="also write JSON lines (falqon_core.spec.messages) to this descriptor")] = None,
) -> None:
    """Train, then write the merged FP8 checkpoint to OUTPUT/model."""
    # The stop must be heard from the first moment, while the libraries still load.
    stop = StopSignal(watch_parent=message_fd is not None)
    with Terminal() as terminal:
        sinks: list[Callable[[Message], None]] = [terminal]
        if message_fd is not None:
            sinks.append(lambda message: _write_all(message_fd, encode(message)))

        def send(message: Message) -> None:
            for sink in sinks:
                sink(message)

        with exit_with_code(send):
            training = _read_config(config)
            trainer_module = _load_libraries(training.num_threads)
            sys.exit(trainer_module.Trainer(training, output, send).run(stop))


@app.command()
def export(
    config: ConfigOption,
    output: Annotated[Path, typer.Option(help="folder of a training; its newest checkpoint becomes OUTPUT/model")],
) -> None:
    """Write the merged FP8 checkpoint of a training that did not reach its end."""
    with Terminal() as terminal, exit_with_code(terminal):
        training = _read_config(config)
        trainer = _load_libraries(training.num_threads).Trainer(training, output, terminal)
        if trainer.state.step == 0:
            raise ConfigError(f"{output} holds no checkpoint", "output")
        trainer.export()


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="JSONL file of records")],
    model: Annotated[Path, typer.Option(help="folder whose tokenizer and template count")],
    max_seq_length: Annotated[int, typer.Option()] = 2048,
) -> None:
    """Count a data set as a training would see it; one JSON object on standard output."""
    with Terminal() as terminal, exit_with_code(terminal):
        os.environ["HF_HUB_OFFLINE"] = "1"
        from falqon_core.data.dataset import load_dataset
        from falqon_core.train.model import load_tokenizer

        dataset = load_dataset(data, load_tokenizer(model), max_seq_length)
        lengths = sorted(len(sequence) for sequence in dataset.sequences)
        report = {
            "records": len(lengths),
            "records_without_targets": dataset.num_without_targets,
            "truncated": dataset.num_truncated,
            "tokens": dataset.num_tokens,
            "trained_tokens": sum(int(sequence.loss_mask.sum()) for sequence in dataset.sequences),
            "length_percentiles": {p: lengths[min(len(lengths) - 1, len(lengths) * p // 100)] for p in (0, 25, 50, 75, 90, 99, 100)},
        }
        sys.stdout.write(json.dumps(report) + "\n")


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="a folder, FILE.gguf, hf:REPO, or builtin:falqon-tiny")],
    output: Annotated[Path, typer.Option(help="new folder: config.json, safetensors, tokenizer")],
) -> None:
    """Bring a base model into the one form that training reads."""
    with Terminal() as terminal, exit_with_code(terminal):
        from falqon_core.bases.importer import import_model

        import_model(source, output)


class StopSignal:
    """Becomes true on SIGTERM or SIGINT. A trainer whose parent is gone has nobody to report to and leaves at once."""

    def __init__(self, watch_parent: bool) -> None:
        self._parent = os.getppid() if watch_parent else None
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(ExitCode.STOPPED)
        return self._asked

    def _ask(self, *_: object) -> None:
        self._asked = True


@contextmanager
def exit_with_code(send: Callable[[Message], None]) -> Iterator[None]:
    """The process edge: every error becomes one `Failed` message and one exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
    try:
        yield
    except FalqonError as error:
        send(Failed(code=error.code, message=str(error), param=error.param))
        sys.exit(ExitCode.USER_ERROR if isinstance(error, UserError) else ExitCode.INTERNAL)
    except Exception as error:
        traceback.print_exc()
        if _is_out_of_memory(error):
            text = "The training needs more memory than this device has; lower microbatch_tokens, max_seq_length or rank."
            send(Failed(code=OutOfMemory.code, message=text, param="microbatch_tokens"))
            sys.exit(ExitCode.OUT_OF_MEMORY)
        send(Failed(code=FalqonError.code, message=f"The trainer failed: {type(error).__name__}."))
        sys.exit(ExitCode.INTERNAL)


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator raises a plain RuntimeError; the CUDA one has a class whose name says it.
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))


def _read_config(path: Path) -> TrainConfig:
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{field}: {first['msg']}" if field else first["msg"], field or None) from None


def _load_libraries(num_threads: int | None):  # type: ignore[no-untyped-def]
    """Import torch and transformers only now, offline, with memory kept and threads set before anything allocates."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    from falqon_core.train import memory

    memory.keep_freed_memory()
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    from falqon_core.train import trainer

    return trainer


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
