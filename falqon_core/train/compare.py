"""The same training by several methods, one process after another, and one table of them.

Each training has a folder of its own under the output, with the trainer's messages in
`messages.jsonl`; one that has ended is not run again, and one that was interrupted continues from
its checkpoint. A method is judged at the best of its learning rates on the first seed, and trained
at that rate with every seed. Trainings that are hours apart say little of speed, so a few steps of
each method are measured in turn once all have ended.
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import (
    Failed,
    Finished,
    Merged,
    Started,
    StepMetrics,
    TrainerMessage,
    decode,
)
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.estimate.comparison import ComparisonRow, TrainingFigures, combine
from falqon_core.files import write_whole
from falqon_core.train.base_error import measure_base_error
from falqon_core.train.choices import (
    ChoiceAccuracy,
    ChoiceQuestion,
    measure_accuracy,
    read_questions,
)
from falqon_core.train.model import load_base_model, load_dimensions, load_tokenizer
from falqon_core.train.speed import measure_speed

CONFIG_FILE = "config.json"
MESSAGES_FILE = "messages.jsonl"
SPEED_FILE = "speed.txt"  # Real tokens per second, measured in turn.


class ComparisonRun(NamedTuple):
    """One training of the comparison."""

    method: MethodName
    learning_rate: float
    seed: int

    @property
    def folder_name(self) -> str:
        """Return the name of the training's folder, unique in the comparison."""
        return f"{self.method}-rate-{self.learning_rate:g}-seed-{self.seed}"


@dataclass(frozen=True)
class ComparisonPlan:
    """The trainings of a comparison: `base` is the configuration that all share; options that a
    method does not have are left out for it. `rate_factors` are tried on the first of `seeds`.
    """

    base: TrainConfig
    methods: Sequence[MethodName]
    rate_factors: Sequence[float]
    seeds: Sequence[int]
    questions: Path | None = None
    num_questions: int = 500


def parse_methods(text: str) -> list[MethodName]:
    """Read names with commas between them, or "all". Raises `ConfigError`."""
    names = list(METHOD_SPECS) if text == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in METHOD_SPECS]:
        raise ConfigError(
            f"methods: there is no method {unknown[0]!r}; there are {', '.join(METHOD_SPECS)}",
            "methods",
        )
    return cast(list[MethodName], names)


def parse_factors(text: str) -> list[float]:
    """Read positive numbers with commas between them. Raises `ConfigError`."""
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise ConfigError(
            f"rate_factors: {text!r} is no list of positive numbers, such as 0.5,1,2",
            "rate_factors",
        )
    return factors


def compare(plan: ComparisonPlan, output: Path, tell: Callable[[str], None]) -> list[ComparisonRow]:
    """Run the trainings that have not ended yet, and measure all of them. Raises `ConfigError`
    where a training fails, with its message.
    """
    questions = None
    if plan.questions is not None:
        questions = read_questions(plan.questions, plan.num_questions)
    width = load_dimensions(plan.base.model).hidden_size
    rows = []
    best_runs = []
    for method in plan.methods:
        automatic = recipe_of(plan.base.recipe, ComparisonRun(method, 1.0, 0)).automatic_rate(width)
        rates = [factor * automatic.value for factor in plan.rate_factors]
        tried = [ComparisonRun(method, rate, plan.seeds[0]) for rate in rates]
        figures = {run: _train_run(plan.base, run, output, tell) for run in tried}
        best = min(tried, key=lambda run: _loss(figures[run]))
        others = [
            _train_run(plan.base, best._replace(seed=seed), output, tell) for seed in plan.seeds[1:]
        ]
        recipe = recipe_of(plan.base.recipe, best)
        row = combine(METHOD_SPECS[method].title, recipe, [figures[best], *others])
        measured: dict[str, float] = {"base_error": _base_error(plan.base, recipe)}
        if questions is not None:
            tell(f"{METHOD_SPECS[method].title}: {len(questions)} questions")
            accuracy = _accuracy(model_folder(output / best.folder_name), questions)
            measured |= {
                "accuracy": accuracy.share,
                "accuracy_deviation": accuracy.standard_error,
            }
        rows.append(row.model_copy(update=measured))
        best_runs.append(best)
    return [
        row.model_copy(update={"speed_in_turn": _measure_speed_once(plan.base, run, output, tell)})
        for row, run in zip(rows, best_runs, strict=True)
    ]


def recipe_of(base: Recipe, run: ComparisonRun) -> Recipe:
    """Return `base` for one method, rate and seed, without the options that the method lacks.

    Raises `ConfigError` for a rate or a seed that no recipe may have.
    """
    foreign = {name for spec in METHOD_SPECS.values() for name in spec.options}
    foreign -= set(METHOD_SPECS[run.method].options)
    fields = base.model_dump(exclude_unset=True, exclude=foreign)
    fields |= {"method": run.method, "seed": run.seed, "learning_rate": run.learning_rate}
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(map(str, first["loc"])) or None
        raise ConfigError(f"{run.folder_name}: {param}: {first['msg']}", param) from None


def figures_of(messages: Sequence[TrainerMessage], model: Path) -> TrainingFigures:
    """Make the figures of one training that has ended."""
    started = next(message for message in messages if isinstance(message, Started))
    steps = [message for message in messages if isinstance(message, StepMetrics)]
    merged = [message for message in messages if isinstance(message, Merged)]
    seconds = [
        after.elapsed_seconds - before.elapsed_seconds
        for before, after in pairwise(steps)
        if after.step == before.step + 1
    ]
    files = model.glob("*.safetensors")
    return TrainingFigures(
        trained_parameters=started.num_trainable_parameters,
        learning_rate=max(step.learning_rate for step in steps),
        steps=steps[-1].step,
        valid_loss=merged[-1].valid_loss if merged else None,
        valid_loss_fp8_weights=merged[-1].valid_loss_fp8_weights if merged else None,
        valid_loss_as_served=merged[-1].valid_loss_as_served if merged else None,
        seconds_per_step=statistics.median(seconds) if seconds else None,
        tokens_per_second=statistics.median(step.tokens_per_second for step in steps),
        memory_bytes=max(step.memory_bytes for step in steps),
        artifact_bytes=sum(file.stat().st_size for file in files),
    )


def train_once(
    config: TrainConfig, folder: Path, tell: Callable[[str], None]
) -> list[TrainerMessage]:
    """Return the messages of the training in `folder`, which is started or continued unless it has
    ended. Raises `ConfigError` where it fails or is interrupted, and where the one that began there
    is of another configuration.
    """
    messages = _read(folder / MESSAGES_FILE)
    path = folder / CONFIG_FILE
    has_begun = any(isinstance(message, Started) for message in messages)
    if has_begun and path.is_file() and json.loads(path.read_bytes()) != _content(config):
        raise ConfigError(
            f"output: {folder} holds a training of another configuration; choose another folder",
            "output",
        )
    if not any(isinstance(message, Finished) for message in messages):
        tell(folder.name)
        _train(config, folder)
        messages = _read(folder / MESSAGES_FILE)
    if failed := [message for message in messages if isinstance(message, Failed)]:
        raise ConfigError(f"{folder.name}: {failed[-1].message}", failed[-1].param)
    if not any(isinstance(message, Finished) for message in messages):
        raise ConfigError(f"{folder.name}: the training ended early; the same command continues")
    return messages


def _train_run(
    base: TrainConfig, run: ComparisonRun, output: Path, tell: Callable[[str], None]
) -> TrainingFigures:
    folder = output / run.folder_name
    config = base.model_copy(update={"recipe": recipe_of(base.recipe, run)})
    return figures_of(train_once(config, folder, tell), model_folder(folder))


def _base_error(base: TrainConfig, recipe: Recipe) -> float:
    return measure_base_error(load_base_model(base.model), recipe.resolved(num_records=1))


def _accuracy(folder: Path, questions: Sequence[ChoiceQuestion]) -> ChoiceAccuracy:
    return measure_accuracy(load_base_model(folder), load_tokenizer(folder), questions)


def _measure_speed_once(
    base: TrainConfig, run: ComparisonRun, output: Path, tell: Callable[[str], None]
) -> float:
    """Measure the speed, unless that was done before."""
    path = output / run.folder_name / SPEED_FILE
    if not path.is_file():
        tell(f"{run.folder_name}: speed")
        config = base.model_copy(update={"recipe": recipe_of(base.recipe, run)})
        path.write_text(f"{measure_speed(config, path.parent)}\n")
    return float(path.read_text())


def _content(config: TrainConfig) -> dict[str, Any]:
    """Return the content of its JSON file."""
    return config.model_dump(mode="json", exclude_unset=True)


def _train(config: TrainConfig, folder: Path) -> None:
    """Run the trainer in a process of its own, so that peak memory is that of one training."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_FILE
    write_whole(path, json.dumps(_content(config)))
    command = [sys.executable, "-m", "falqon_core", "train", "--config", str(path)]
    with (folder / MESSAGES_FILE).open("ab") as messages:
        command += ["--output", str(folder), "--message-fd", str(messages.fileno())]
        subprocess.run(
            command, pass_fds=[messages.fileno()], stdout=subprocess.DEVNULL, check=False
        )


def _read(path: Path) -> list[TrainerMessage]:
    """Return a trainer's messages, without a line that was cut off and without an older failure."""
    if not path.is_file():
        return []
    messages: list[TrainerMessage] = []
    for line in path.read_bytes().splitlines():
        try:
            message = decode(line)
        except ValidationError:
            continue
        if isinstance(message, Started):
            messages = [each for each in messages if not isinstance(each, Failed)]
        messages.append(message)
    return messages


def _loss(figures: TrainingFigures) -> float:
    loss = figures.valid_loss_as_served
    return float("inf") if loss is None else loss
