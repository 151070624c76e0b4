r"""What the methods learn from the same steps: PEFT LoRA, frozen-A LoRA, the published rule, and
the anchored rule with each choice of A, and with an A that trains.

    python -m benchmarks.learning --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

Every training starts from the same base and sees the same records in the same order (keyed by the
seed): four records a step, rank 64 on all linears, cosine schedule, loss on the answers only. Each
system tries its learning rates with the first seed; its best rate then goes through the other
seeds. Each finished training is a line of the CSV and is never run again, so the
command may be stopped and started at will. Losses do not depend on how busy the machine is.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import PreTrainedModel

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.learning_report import Trained, report
from benchmarks.our_training import OurTraining
from benchmarks.rows import chat_dataset
from falqon_core.bench.peers import PeftLora
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader
from falqon_core.data.microbatch import plan_microbatches
from falqon_core.methods import Trainable
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.supervised import Supervised
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.evaluate import evaluate
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.optimizer import learning_rate

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
class Files:
    model: Path
    train: Path
    test: Path


def method_of(system: str, recipe: Recipe) -> Trainable:
    return PeftLora(recipe, train_a="frozen" not in system) if "LoRA" in system else Falqon(recipe)


def train(wanted: Trained, files: Files, threads: int) -> list[Trained]:
    """Return the training with its losses.

    After `STEPS` LoRA has a second line: the same training, judged as the FP8 model that it would
    be served as, like all the others.
    """
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(files.model)
    data = chat_dataset(files.train, tokenizer, MAX_SEQ_LENGTH)
    recipe = Recipe.model_validate(
        {"max_seq_length": MAX_SEQ_LENGTH, "batch_size": 4, "max_steps": wanted.steps}
        | {"seed": wanted.seed, "learning_rate": wanted.learning_rate}
        | SYSTEMS[wanted.system].recipe
    ).resolved(len(data))

    def loader() -> Loader:
        return Loader(data, 4, 4096, packing=True, seed=wanted.seed)

    model, method = load_base_model(files.model), method_of(wanted.system, recipe)
    first = loader()
    batches = [microbatch for _ in range(4) for microbatch in first.next_step()]
    training = OurTraining(model, method, recipe, batches)
    records = loader()
    losses = [
        training.step(records.next_step(), learning_rate(recipe, step, wanted.steps))
        for step in range(wanted.steps)
    ]
    held_out = plan_microbatches(
        chat_dataset(files.test, tokenizer, MAX_SEQ_LENGTH)[: wanted.rows], 4096, packing=True
    )

    def judged(system: str) -> Trained:
        test_loss = round(evaluate(model, held_out, Supervised())["loss"], 5)
        train_losses = " ".join(f"{loss:.5g}" for loss in losses)
        return replace(wanted, system=system, train_losses=train_losses, test_loss=test_loss)

    done = [judged(wanted.system)]
    if isinstance(method, PeftLora) and wanted.steps == STEPS:
        merge_to_fp8(model, method)
        done.append(judged(f"{wanted.system}{MERGED}"))
    return done


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


def search(rows: int) -> Iterator[Trained]:
    for name, system in SYSTEMS.items():
        for rate in system.learning_rates:
            yield Trained(name, rate, 0, STEPS, rows)


def final(finished: Sequence[Trained], seeds: int, rows: int) -> Iterator[Trained]:
    losses = {each.key: each.test_loss for each in finished}
    for name in SYSTEMS:
        best = min(
            (wanted for wanted in search(rows) if wanted.system == name),
            key=lambda wanted: losses[wanted.key],
        )
        for seed in range(seeds):
            yield replace(best, seed=seed)
            if name in ALSO_SHORTER:
                yield replace(best, seed=seed, steps=FEWER_STEPS)


def run_all(trainings: Iterator[Trained], files: Files, output: Path, jobs: int) -> None:
    """Run what is not in the CSV yet, `jobs` at a time on one thread each: two such are faster than
    one with two threads.
    """
    finished = {each.key for each in read(output, Trained)}
    missing = [wanted for wanted in trainings if wanted.key not in finished]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in pool.map(train, missing, [files] * len(missing), [1] * len(missing)):
            append(output, done)
            for each in done:
                print(*each.key, each.test_loss, flush=True)


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
    run_all(final(read(args.output, Trained), args.seeds, args.rows), files, args.output, args.jobs)
    report(args.output)


if __name__ == "__main__":
    main()
