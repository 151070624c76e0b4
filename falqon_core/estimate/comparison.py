"""Methods beside each other in one table: measurements of trainings, and figures of the paper.

A row is a method, or one training. Of several trainings of a method the losses are means, with
their standard deviation; every other figure is the median, and memory the most that any of them
took. Beside them stand the figures of FALQON's paper: of LLaMA-7B on its cards, never of the model
that was trained.
"""

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS, MethodName

MIB = 2**20
GIB = 2**30
Better = Literal["lower", "higher", ""]
EMPTY_CELL = "\N{EN DASH}"
LOSSES = ("valid_loss", "valid_loss_fp8_weights", "valid_loss_as_served")
PAPER_NOTE = (
    "Paper: LLaMA-7B on Alpaca, seconds per step and 5-shot MMLU as FALQON's paper prints them. "
    "Its FP6 rows are at chance (0.25): the kernel that they ran has no backward pass."
)
NOTES = (
    "Validation loss: as trained, then of the merged model with its weights in FP8, and with its "
    "activations rounded to FP8 too, as a card with FP8 serves it. ±: the standard deviation of "
    "several seeds.",
    "As it ran: the median of the training's steps, beside all else that the machine ran. In turn, "
    "as `python -m falqon_core compare` measures it: a few steps of each method, straight after "
    "those of the one before. Padding is not counted.",
    PAPER_NOTE,
)


@dataclass(frozen=True)
class PaperFigures:
    """Figures of LLaMA-7B on Alpaca: seconds per optimizer step, and 5-shot MMLU as a share of
    1.
    """

    seconds_per_step: float
    mmlu: float


PAPER: dict[MethodName, PaperFigures] = {
    "falqon": PaperFigures(1.80, 0.3491),
    "lora": PaperFigures(2.87, 0.3456),
    "qlora": PaperFigures(5.45, 0.3272),
    "qa_lora": PaperFigures(9.44, 0.3548),
    "ir_lora": PaperFigures(8.27, 0.3388),
    "fp8_lora": PaperFigures(2.18, 0.3393),
    "fp6_lora": PaperFigures(2.72, 0.2509),
    "fishman": PaperFigures(2.29, 0.3537),
}
PAPER_E2M3 = PaperFigures(2.72, 0.2295)


class TrainingFigures(BaseModel):
    """Measurements of one training; None where there is none yet, or never will be."""

    model_config = ConfigDict(frozen=True)

    trained_parameters: int | None = None
    learning_rate: float | None = None
    steps: int | None = None
    base_error: float | None = Field(
        None, description="of the weights that it trained on: |W - W as trained on| / |W|, mean"
    )
    valid_loss: float | None = Field(
        None, description="of the trained model, in nats: a label of supervised training, a pair"
    )
    valid_loss_fp8_weights: float | None = Field(
        None, description="the same of the merged model with its weights in FP8"
    )
    valid_loss_as_served: float | None = Field(
        None, description="the same with weights and activations in FP8, as a card serves it"
    )
    accuracy: float | None = Field(None, description="share of questions answered rightly")
    seconds_per_step: float | None = Field(None, description="the median, as it ran")
    tokens_per_second: float | None = None
    memory_bytes: int | None = Field(None, description="most bytes held, of the device on a GPU")
    artifact_bytes: int | None = Field(None, description="of the merged FP8 model")
    cost: Decimal | None = Field(None, description="dollars")


class ComparisonRow(TrainingFigures):
    """One row of the comparison: a method, or one training."""

    name: str
    method: MethodName
    num_jobs: int = Field(description="trainings whose figures these are")
    valid_loss_deviation: float | None = Field(
        None, description="standard deviation over the jobs; null for one"
    )
    valid_loss_fp8_weights_deviation: float | None = None
    valid_loss_as_served_deviation: float | None = None
    accuracy_deviation: float | None = Field(None, description="the standard error of one model")
    speed_in_turn: float | None = Field(
        None, description="real tokens per second, measured right after the row before"
    )
    paper_seconds_per_step: float | None = Field(None, description="as FALQON's paper prints it")
    paper_mmlu: float | None = None


@dataclass(frozen=True)
class ComparisonColumn:
    """`field`: of a `ComparisonRow`. `write`: its value as text, given the row. `better`: the
    direction in which one row beats another, if any.
    """

    field: str
    title: str
    write: Callable[[ComparisonRow], str]
    better: Better = ""

    def best(self, rows: Sequence[ComparisonRow]) -> list[bool]:
        """Mark the rows with the best value."""
        values = [getattr(row, self.field) for row in rows]
        return mark_best(values, [self.write(row) for row in rows], self.better)


def combine(name: str, recipe: Recipe, trainings: Sequence[TrainingFigures]) -> ComparisonRow:
    """Make one row of trainings of like recipes; there may be none yet."""
    fields: dict[str, Any] = {}
    for field in TrainingFigures.model_fields:
        values = [value for each in trainings if (value := getattr(each, field)) is not None]
        if not values:
            continue
        fields[field] = statistics.median_low(values)
        if field == "memory_bytes":
            fields[field] = max(values)
        if field in LOSSES:
            fields[field] = statistics.fmean(values)
            if len(values) > 1:
                fields[f"{field}_deviation"] = statistics.stdev(values)
    if (paper := paper_figures(recipe)) is not None:
        fields |= {"paper_seconds_per_step": paper.seconds_per_step, "paper_mmlu": paper.mmlu}
    return ComparisonRow(name=name, method=recipe.method, num_jobs=len(trainings), **fields)


def paper_figures(recipe: Recipe) -> PaperFigures | None:
    """Return the paper's figures of the recipe's method; None for preferences, which it has not
    trained.
    """
    if recipe.objective != "supervised":
        return None
    if recipe.weight_format == "e2m3":
        return PAPER_E2M3
    return PAPER.get(recipe.method)


def sort_rows(
    rows: Iterable[ComparisonRow], field: str, *, descending: bool = False
) -> list[ComparisonRow]:
    """Sort by a column, rows without a value last in either direction."""
    order = list(METHOD_SPECS)

    def key(row: ComparisonRow) -> Any:
        return order.index(row.method) if field == "method" else getattr(row, field)

    rows = list(rows)
    filled = [row for row in rows if getattr(row, field) is not None]
    empty = [row for row in rows if getattr(row, field) is None]
    return sorted(filled, key=key, reverse=descending) + empty


def filled_columns(rows: Sequence[ComparisonRow]) -> list[ComparisonColumn]:
    """Return the columns that some row has a value for."""
    return [
        column for column in COLUMNS if any(getattr(row, column.field) is not None for row in rows)
    ]


def mark_best(
    values: Sequence[float | Decimal | None], cells: Sequence[str | None], better: Better
) -> list[bool]:
    """Mark the best values, unless all that there are read the same."""
    known = [value for value in values if value is not None]
    written = {cell for cell, value in zip(cells, values, strict=True) if value is not None}
    if not better or len(written) < 2:
        return [False] * len(values)
    best = min(known) if better == "lower" else max(known)
    return [value == best for value in values]


def to_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Write a GitHub table of the filled columns, and below it their meaning."""
    columns = filled_columns(rows)
    lines = [["Method", *(column.title for column in columns)]]
    lines.append(["---", *("---:" for _ in columns)])
    lines += [[row.name, *(column.write(row) for column in columns)] for row in rows]
    table = "".join(f"| {' | '.join(map(_escape, cells))} |\n" for cells in lines)
    return table + "\n" + "".join(f"- {note}\n" for note in NOTES)


def to_csv(rows: Sequence[ComparisonRow]) -> str:
    """Write one line a row under the names of its fields, numbers as they are."""
    names = ["name", "method", "num_jobs"]
    names += [field for field in ComparisonRow.model_fields if field not in names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = row.model_dump(mode="json")
        writer.writerow(["" if values[name] is None else values[name] for name in names])
    return text.getvalue()


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _column(
    field: str, title: str, form: str, unit: float = 1, better: Better = ""
) -> ComparisonColumn:
    def write(row: ComparisonRow) -> str:
        value = getattr(row, field)
        if value is None:
            return EMPTY_CELL
        text = format(value if unit == 1 else value / unit, form)
        deviation = getattr(row, f"{field}_deviation", None)
        return text if deviation is None else f"{text} ± {deviation:{form}}"

    return ComparisonColumn(field, title, write, better)


COLUMNS = (
    _column("num_jobs", "Jobs", "d"),
    _column("trained_parameters", "Trained parameters", ",d"),
    _column("learning_rate", "Learning rate", "g"),
    _column("steps", "Steps", ",d"),
    _column("base_error", "Base error", ".4f", better="lower"),
    _column("valid_loss", "Validation loss", ".4f", better="lower"),
    _column("valid_loss_fp8_weights", "FP8 weights", ".4f", better="lower"),
    _column("valid_loss_as_served", "FP8 weights and activations", ".4f", better="lower"),
    _column("accuracy", "Accuracy", ".3f", better="higher"),
    _column("seconds_per_step", "s/step, as it ran", ".3g", better="lower"),
    _column("tokens_per_second", "Tokens/s, as it ran", ",.0f", better="higher"),
    _column("speed_in_turn", "Tokens/s, in turn", ",.0f", better="higher"),
    _column("memory_bytes", "Peak memory, GiB", ".2f", GIB, better="lower"),
    _column("artifact_bytes", "Model, MiB", ",.1f", MIB, better="lower"),
    _column("cost", "Cost, $", ".4f", better="lower"),
    _column("paper_seconds_per_step", "Paper s/step, 7B", ".2f"),
    _column("paper_mmlu", "Paper MMLU, 7B", ".4f"),
)
