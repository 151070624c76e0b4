"""Trainings in this process, the messages that they send and the files that they leave."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.messages import ExitCode, StepMetrics, TrainerMessage
from falqon_core.train.trainer import Trainer


def config_of(model: Path, train_file: Path, recipe: dict[str, Any], **fields: Any) -> TrainConfig:
    """Return the configuration of a training by one thread and without a certificate; of three
    epochs that hold nothing out, unless `recipe` says otherwise.
    """
    short = {"num_epochs": 3, "validation_fraction": 0.0}
    of_tests = {
        "num_threads": 1, "certificate": False, "recipe": Recipe.model_validate(short | recipe)
    }  # fmt: skip
    return TrainConfig(model=model, train_file=train_file, **of_tests | fields)


def train(
    config: TrainConfig,
    output: Path,
    stop_after: int | None = None,
    hear: Callable[[TrainerMessage], object] = lambda message: None,
) -> tuple[ExitCode, list[TrainerMessage]]:
    """Train to the end, or ask for a stop after so many steps; return the code and all messages,
    each of which was heard when it came.
    """
    messages: list[TrainerMessage] = []

    def send(message: TrainerMessage) -> None:
        messages.append(message)
        hear(message)

    def stop() -> bool:
        return len(of(StepMetrics, messages)) == stop_after

    return Trainer(config, output, send, stop).run(), messages


def resize(model: Path, folder: Path, num_layers: int, **sizes: int) -> Path:
    """Write a model like `model`, of other sizes and random weights, to `folder`, and return it."""
    shutil.copytree(model, folder)
    config = AutoConfig.from_pretrained(folder)
    for name, size in {"num_hidden_layers": num_layers, **sizes}.items():
        setattr(config, name, size)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def of(kind: type[Any], messages: list[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def bytes_of(output: Path) -> dict[str, bytes]:
    """Return every file below a folder, by its path in it."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}
