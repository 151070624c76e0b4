r"""What the methods learn from the same steps: PEFT LoRA, frozen-A LoRA, the published rule, and
the anchored rule with each choice of A, and with an A that trains.

    python -m benchmarks.learning --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

Every training starts from the same base and sees the same records in the same order (keyed by the
seed): four records a step, rank 64 on all linears, cosine schedule, loss on the answers only. Each
system tries its learning rates with the first seed; its best rate then goes through the other
seeds. Each finished training is one block of lines in the CSV and is never run again, so the
command may be stopped and started at will. Losses do not depend on how busy the machine is.
"""

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import PreTrainedModel

from benchmarks import parser_of
from benchmarks.learning_report import report
from benchmarks.rows import chat_dataset
from falqon_core.bench.peers import PeftLora
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader
from falqon_core.data.microbatch import plan_microbatches
from falqon_core.methods import Trainable
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.objectives.supervised import Supervised
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.evaluate import evaluate
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.optimizer import Optimizer, learning_rate

STEPS = 60
FEWER_STEPS = 45  # some are shown after this many as well
MAX_SEQ_LENGTH = 512
MERGED = ", merged to FP8"
FROZEN_A = "anchored, gradient A"
TRAINS_A = "anchored, gradient A that trains"
DEFAULT = f"{TRAINS_A} but of down"
ALSO_SHORTER = {FROZEN_A, TRAINS_A, DEFAULT, "PEFT LoRA"}


@dataclass(frozen=True)
class System:
    recipe: dict[str, object]
    learning_rates: tuple[float, ...]


TOPK = {"update_rule": "topk", "a_init": "quant_error"}
SYSTEMS = {
    DEFAULT: System({}, (5e-4,)),
    "PEFT LoRA": System({}, (1e-3, 2e-3)),
    FROZEN_A: System({"train_a": False}, (5e-4,)),
    TRAINS_A: System({"train_a": True}, (5e-4,)),
    "anchored, quant_error A": System({"a_init": "quant_error", "train_a": False}, (1e-3, 2e-3)),
    "anchored, orthonormal A": System({"a_init": "orthonormal", "train_a": False}, (1e-3,)),
    "published, k = r": System(TOPK | {"num_update_rows": 64}, (2e-2,)),
    "published, k = 10": System(TOPK | {"num_update_rows": 10}, (2e-2,)),
    "frozen-A LoRA": System({}, (1e-3,)),
}


@dataclass(frozen=True)
class LearningCase:
    system: str
    learning_rate: float
    seed: int
    steps: int
    rows: int  # held-out


@dataclass(frozen=True)
class Files:
    model: Path
    train: Path
    test: Path


def method_of(system: str, recipe: Recipe) -> Trainable:
    return PeftLora(recipe, train_a="frozen" not in system) if "LoRA" in system else Falqon(recipe)


def train(training: LearningCase, files: Files, threads: int) -> list[dict[str, object]]:
    """One training; its lines for the CSV: the loss of each step, the held-out loss on the last.

    After `STEPS` LoRA has a second block of lines: the same training, judged as the FP8 model that
    it would be served as, like all the others.
    """
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(files.model)
    data = chat_dataset(files.train, tokenizer, MAX_SEQ_LENGTH)
    overrides = SYSTEMS[training.system].recipe
    fixed = {
        "max_seq_length": MAX_SEQ_LENGTH,
        "batch_size": 4,
        "max_steps": training.steps,
        "seed": training.seed,
    }
    recipe = Recipe.model_validate(
        fixed | {"learning_rate": training.learning_rate} | overrides
    ).resolved(len(data))
    loader = Loader(data, 4, 4096, packing=True, seed=training.seed)
    model = load_base_model(files.model)
    method = method_of(training.system, recipe)
    first = Loader(data, 4, 4096, packing=True, seed=training.seed)
    method.prepare(model, [microbatch for _ in range(4) for microbatch in first.next_step()])
    optimizer = Optimizer(
        method.parameters(),
        recipe.weight_decay,
        recipe.max_grad_norm,
        relative_rates=method.relative_rates(),
    )
    lines: list[dict[str, object]] = []
    for step in range(training.steps):
        batch = loader.next_step()
        num_labels = sum(microbatch.num_labels for microbatch in batch)
        total = 0.0
        for microbatch in batch:
            loss = microbatch_loss(model, microbatch)[0] / num_labels
            loss.backward()
            total += loss.item()
        optimizer.clip()
        optimizer.step(learning_rate(recipe, step, training.steps))
        method.after_step()
        lines.append(
            vars(training) | {"step": step + 1, "train_loss": round(total, 5), "test_loss": ""}
        )
    held_out = plan_microbatches(
        chat_dataset(files.test, tokenizer, MAX_SEQ_LENGTH)[: training.rows], 4096, packing=True
    )
    lines[-1]["test_loss"] = round(evaluate(model, held_out, Supervised())["loss"], 5)
    if isinstance(method, PeftLora) and training.steps == STEPS:
        merge_to_fp8(model, method)
        merged = [line | {"system": f"{training.system}{MERGED}"} for line in lines]
        merged[-1]["test_loss"] = round(evaluate(model, held_out, Supervised())["loss"], 5)
        lines += merged
    return lines


@torch.no_grad()
def merge_to_fp8(model: PreTrainedModel, method: PeftLora) -> None:
    """Fold the adapters into the base weights and round these as the melded model's are."""
    state = method.state()
    for name in {name.rpartition(".")[0] for name in state}:
        weight = model.get_submodule(name).base_layer.weight
        a = state[f"{name}.lora_A"]
        b = state[f"{name}.lora_B"]
        weight.copy_(quantize_rows(weight.float().addmm_(b, a))[0])
        b.zero_()


def done(path: Path) -> dict[LearningCase, float]:
    """Finished trainings in the CSV, with their held-out loss."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            LearningCase(
                r["system"],
                float(r["learning_rate"]),
                int(r["seed"]),
                int(r["steps"]),
                int(r["rows"]),
            ): float(r["test_loss"])
            for r in csv.DictReader(file)
            if r["test_loss"]
        }


def search(rows: int) -> Iterator[LearningCase]:
    for name, system in SYSTEMS.items():
        for rate in system.learning_rates:
            yield LearningCase(name, rate, 0, STEPS, rows)


def final(finished: dict[LearningCase, float], seeds: int, rows: int) -> Iterator[LearningCase]:
    for name in SYSTEMS:
        best = min(
            (training for training in search(rows) if training.system == name),
            key=finished.__getitem__,
        )
        for seed in range(seeds):
            yield replace(best, seed=seed)
            if name in ALSO_SHORTER:
                yield replace(best, seed=seed, steps=FEWER_STEPS)


def run_all(trainings: Iterator[LearningCase], files: Files, output: Path, jobs: int) -> None:
    """Run what is not in the CSV yet, `jobs` at a time on one thread each: two such are faster than
    one with two threads.
    """
    finished = done(output)
    missing = [training for training in trainings if training not in finished]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for lines in pool.map(train, missing, [files] * len(missing), [1] * len(missing)):
            new = not output.exists()
            with output.open("a", newline="") as file:
                writer = csv.DictWriter(file, lines[0].keys())
                if new:
                    writer.writeheader()
                writer.writerows(lines)
            last = lines[-1]
            print(
                f"{last['system']}, lr {last['learning_rate']}, seed {last['seed']}, "
                f"{last['steps']} steps: {last['test_loss']}",
                flush=True,
            )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--train",
        type=Path,
        required=True,
        help="JSONL with question and answer, or the trainer's own records",
    )
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "learning.csv"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    files = Files(args.model, args.train, args.test)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    run_all(search(args.rows), files, args.output, args.jobs)
    run_all(final(done(args.output), args.seeds, args.rows), files, args.output, args.jobs)
    report(args.output)


if __name__ == "__main__":
    main()
