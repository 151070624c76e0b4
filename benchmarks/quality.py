r"""FALQON against LoRA on rows and seeds that chose nothing: the models that a user downloads.

    python -m benchmarks.quality --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

Automatic rates are what the first 250 rows of the test file and seeds 0 to 2 chose; LoRA's is tried
again here at half of it and twice. The figures are of the other rows and of seeds 3 to 7, after 60
steps of four records, and of the best of five checkpoints of the 225 steps that 300 records get by
themselves, which the first 250 rows choose as a user's held-out rows do.

`as served` is the loss of the exported FP8 model, its activations rounded as a card rounds them;
`trained` that of LoRA's adapter on the bf16 base, by PEFT, and of FALQON's model as it is.
Pairs compare it row by row: each row counts once, as the mean over the seeds of the two models'
difference. Each training is one line of the CSV and is not run again; one that was interrupted
continues from its checkpoint. Losses do not depend on how busy the machine is.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.layout import checkpoint_folder, model_folder
from falqon_core.contract.messages import Evaluated, Exported
from falqon_core.data.microbatch import collate
from falqon_core.export.adapter import write_adapter
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.compare import train_once
from falqon_core.train.model import load_base_model, load_dimensions, load_tokenizer

RESULTS = Path(__file__).parent / "results"
NUM_CHOSEN = 250  # Rows of the test file that automatic values may have been chosen by.
MAX_SEQ_LENGTH = 512
METHODS = ("falqon", "lora")
RATE_FACTORS = (0.5, 1.0, 2.0)  # Of LoRA's automatic rate, with the first seed.
FIRST_REPORTED_SEED = 3
SHORT, LONG = 60, 225
# What leads to each number of steps: 300 records get three epochs of batches of four.
RECIPES: dict[int, dict[str, Any]] = {SHORT: {"batch_size": 4, "max_steps": SHORT}, LONG: {}}
NUM_RECORDS: dict[int, int | None] = {SHORT: None, LONG: 300}
NUM_EVALUATIONS = {SHORT: 1, LONG: 5}
INTRODUCTION = """\
SmolLM2-135M on GSM8K, everything automatic (60 steps: batches of four, of all training records;
225 steps: what 300 records get by themselves). The rows are the second half of the test file, and
the seeds begin at 3: neither chose a rate, a default or a checkpoint. Of 225 steps the model is the
best of five checkpoints, by the first half of that file. Losses are nats a token of the answers,
mean and standard error over the seeds. As trained: LoRA's adapter on the base in bf16, by PEFT
but for the first three seeds of 60 steps. As served: weights and activations in FP8, as a card with
FP8 serves the downloaded model; LoRA's is merged. Written by"""

TRIED = """
## Tried, and left out

Changes to FALQON's default (rank 64, the leading singular vectors of the gradient at equal length),
each at the same automatic rate, by the first 250 rows after 60 steps, with weights in FP8 and as
served; "training the norms" trains the weights of all RMS norms in fp32 with the given multiple of
B's rate. No rate was swept for them.

| change | seed | weights in FP8 | as served |
|---|---:|---:|---:|
| none | 0 | 0.7997 | 0.8056 |
| rank 128 | 0 | 0.8006 | 0.8069 |
| rank 256 | 0 | 0.8159 | 0.8212 |
| rows of A longer by the root of their singular values, mean 1 | 0 | 0.8114 | 0.8180 |
| training the norms, once | 0 | 0.7989 | 0.8046 |
| training the norms, four times | 0 | 0.8032 | 0.8119 |

Rank 256 and the weighted rows are a clear no at this rate; rank 128 gives nothing for twice the
memory of A and B. The norms at B's rate are 0.001 lower, less than seeds differ by; one seed is no
reason to keep them.
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training; `reported` where its rows chose nothing. Losses in nats a token, held out: by
    step of the rows that choose the checkpoint, then of the exported one as it trained, with its
    weights in FP8, and as served, all rows and each.
    """

    method: str
    rate_factor: float
    seed: int
    steps: int
    reported: bool
    learning_rate: float = 0.0
    by_step: str = ""
    trained: float = 0.0
    weights: float = 0.0
    as_served: float = 0.0
    rows: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return self.method, self.rate_factor, self.seed, self.steps, self.reported


def _write_rows(path: Path, source: Path, rows: slice) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in source.read_text().splitlines()[rows]]
    path.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": record["question"]},
                        {"role": "assistant", "content": record["answer"]},
                    ]
                }
            )
            + "\n"
            for record in records
        )
    )
    return path.resolve()


def _round_activations(linear: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    x = inputs[0]
    return quantize_rows(x.flatten(0, -2))[0].view_as(x)


@torch.no_grad()
def losses_by_row(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Path
) -> tuple[float, list[float]]:
    """Return the loss a token of all rows, and of each."""
    sums, counts = [], []
    for sequence in chat_dataset(held_out, tokenizer, MAX_SEQ_LENGTH):
        row = collate([sequence], packing=False)
        sums.append(-sequence_log_probabilities(model, row).item())
        counts.append(row.num_labels)
    return sum(sums) / sum(counts), [a / b for a, b in zip(sums, counts, strict=True)]


def run(training: Trained, args: Any) -> Trained:
    """Return the training with its figures."""
    folder = args.output / "-".join(map(str, training.key))
    choosing, others = slice(NUM_CHOSEN), slice(NUM_CHOSEN, None)
    width = load_dimensions(args.model).hidden_size
    recipe = Recipe.model_validate(
        RECIPES[training.steps]
        | {"method": training.method, "seed": training.seed, "max_seq_length": MAX_SEQ_LENGTH}
        | {"num_samples": 0, "eval_every": training.steps // NUM_EVALUATIONS[training.steps]}
    )
    rate = recipe.automatic_rate(width).value * training.rate_factor
    records = slice(NUM_RECORDS[training.steps])
    config = TrainConfig(
        model=args.model.resolve(),
        train_file=_write_rows(folder / "train.jsonl", args.train, records),
        validation_file=_write_rows(folder / "choosing.jsonl", args.test, choosing),
        certificate=False,
        recipe=recipe.model_copy(update={"learning_rate": rate}),
    )
    messages = train_once(config, folder, lambda line: print(line, file=sys.stderr))
    by_step = {each.step: each.valid_loss for each in messages if isinstance(each, Evaluated)}
    best = next(each.step for each in messages if isinstance(each, Exported))
    measured = _write_rows(
        folder / "measured.jsonl", args.test, others if training.reported else choosing
    )
    tokenizer = load_tokenizer(args.model)
    merged = load_base_model(model_folder(folder))
    weights, _ = losses_by_row(merged, tokenizer, measured)
    trained = weights
    if training.method == "lora":
        adapted = load_adapted(args.model, checkpoint_folder(folder, best), folder / "adapter")
        trained, _ = losses_by_row(adapted, tokenizer, measured)
    for name, module in merged.base_model.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in f".{name}":
            module.register_forward_pre_hook(_round_activations)
    as_served, rows = losses_by_row(merged, tokenizer, measured)
    figures = asdict(training) | {
        "learning_rate": rate,
        "by_step": " ".join(f"{step}:{by_step[step]:.4f}" for step in sorted(by_step)),
        "trained": round(trained, 5),
        "weights": round(weights, 5),
        "as_served": round(as_served, 5),
        "rows": " ".join(f"{loss:.4f}" for loss in rows),
    }
    return Trained(**figures)


def load_adapted(base: Path, checkpoint: Path, adapter: Path) -> PreTrainedModel:
    """Return the bf16 base with the adapter of a checkpoint, which is written as PEFT's."""
    adapter.mkdir(exist_ok=True)
    write_adapter(checkpoint, adapter, base.name)
    return PeftModel.from_pretrained(load_base_model(base), adapter).get_base_model()


def paired(ours: Sequence[Trained], theirs: Sequence[Trained]) -> tuple[float, float]:
    """Return the mean difference of a row, means over the seeds that both have, and its standard
    error over the rows.
    """
    by_seed = {each.seed: _rows_of(each) for each in theirs}
    gaps = [
        [a - b for a, b in zip(_rows_of(each), by_seed[each.seed], strict=True)]
        for each in ours
        if each.seed in by_seed
    ]
    by_row = [statistics.fmean(row) for row in zip(*gaps, strict=True)]
    return statistics.fmean(by_row), statistics.stdev(by_row) / math.sqrt(len(by_row))


def _rows_of(training: Trained) -> list[float]:
    return list(map(float, training.rows.split()))


def _mean_and_error(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def report(trainings: Sequence[Trained]) -> str:
    """Return the page: the reported losses, the paired differences, and LoRA's rates."""
    final = [each for each in trainings if each.reported and each.rate_factor == 1]
    lines = [
        "# FALQON against LoRA, on rows and seeds that chose nothing",
        "",
        INTRODUCTION,
        "",
        "    python -m benchmarks.quality --model .cache/smollm2 \\",
        "      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl",
        "",
        "| steps | method | rate | seeds | as it trained | weights in FP8 | as served |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    pairs: list[str] = []
    for steps in sorted({each.steps for each in final}):
        groups = {
            method: [each for each in final if (each.method, each.steps) == (method, steps)]
            for method in METHODS
        }
        lines += [
            f"| {steps} | {method} | {group[0].learning_rate:.2g} | {len(group)} | "
            f"{_mean_and_error([each.trained for each in group])} | "
            f"{_mean_and_error([each.weights for each in group])} | "
            f"{_mean_and_error([each.as_served for each in group])} |"
            for method, group in groups.items()
            if group
        ]
        if all(groups.values()):
            pairs += _pairs(steps, *groups.values())
    lines += ["", *pairs, "", *_rates(trainings)]
    return "\n".join(lines) + "\n" + TRIED


def _pairs(steps: int, ours: Sequence[Trained], theirs: Sequence[Trained]) -> Iterator[str]:
    gap, error = paired(ours, theirs)
    yield (
        f"- after {steps} steps FALQON's loss as served, minus LoRA's merged: "
        f"**{gap:+.4f} ± {error:.4f}** ({gap / error:+.1f} standard errors over the rows)"
    )
    in_bf16 = {each.seed: each.trained for each in theirs}
    gaps = [each.as_served - in_bf16[each.seed] for each in ours if each.seed in in_bf16]
    of_seeds = ", ".join(f"{each:+.4f}" for each in gaps)
    mean = statistics.fmean(gaps)
    yield f"- the same, minus LoRA's in bf16, not merged: {mean:+.4f} ({of_seeds} of each seed)"


def _rates(trainings: Sequence[Trained]) -> Iterator[str]:
    yield "LoRA's rates, by the first 250 rows and seed 0, after 60 steps (bf16, as served):"
    yield ""
    for each in sorted(trainings, key=lambda each: each.learning_rate):
        if not each.reported:
            yield f"- {each.learning_rate:.2g}: {each.trained:.4f}, {each.as_served:.4f}"


def plan(num_seeds: int, num_long_seeds: int) -> Iterator[Trained]:
    """Return all trainings, the ones of the most seeds last."""
    seeds = range(FIRST_REPORTED_SEED, FIRST_REPORTED_SEED + num_seeds)
    for seed in seeds:
        for method in METHODS:
            yield Trained(method, 1.0, seed, SHORT, reported=True)
    for factor in RATE_FACTORS:
        yield Trained("lora", factor, 0, SHORT, reported=False)
    for seed in seeds[:num_long_seeds]:
        for method in METHODS:
            yield Trained(method, 1.0, seed, LONG, reported=True)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(".cache/quality"), help="trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--long-seeds", type=int, default=5, help="of the 225 steps")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = args.results / "quality.csv"
    for training in plan(args.seeds, args.long_seeds):
        if training.key in {each.key for each in read(table, Trained)}:
            continue
        finished = run(training, args)
        append(table, [finished])
        (args.results / "quality.md").write_text(report(read(table, Trained)))
        print(*finished.key, finished.trained, finished.as_served, flush=True)


if __name__ == "__main__":
    main()
