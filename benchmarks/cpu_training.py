"""Training speed on CPU: ours against PEFT LoRA, same base, same records, in turn, in one process.

    make benchmark
    python -m benchmarks.cpu_training --model .cache/smollm2 [--data rows.jsonl] [--short]

All systems train the same bf16 base at rank 64 on all linear layers, with fused AdamW and clipping.

Padded, the same batches for all: ours; ours where A is frozen, and where it trains everywhere; the
trainer's own LoRA; PEFT as `get_peft_model` makes it (fp32 adapters); PEFT with bf16 adapters. PEFT
uses transformers' own forward, loss and sdpa attention.

As users get it: ours with the batch that a recipe resolves to and packing; PEFT with what TRL's
SFTTrainer sets by itself: 8 padded records, bf16 autocast and gradient checkpointing. The same
without checkpointing is there too, because it can be turned off.

Rounds interleave the systems, so that a busy machine hits all of them; rates are medians over
rounds of *real* tokens per second, ratios medians of the rounds' ratios. The bound is the time of
the GEMMs of our padded steps, alone and one after the other. Peak memory is that of a process of
its own for each system, after `MEMORY_STEPS` steps; loading the model is part of it. The tables go
to the top of benchmarks/results/cpu_training.md; earlier runs stay below them.
"""

import argparse
import os
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# as the trainer's command sets it, here for all systems
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from benchmarks import parser_of
from benchmarks.gemm_bound import gemm_seconds
from benchmarks.our_training import OurTraining
from benchmarks.peft_lora import create_peft, mean_loss
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader, Microbatch
from falqon_core.methods import create_method
from falqon_core.ops.matmul import LACKS_BF16
from falqon_core.train.model import load_base_model, load_tokenizer

Step = Callable[[list[Microbatch]], float]
RESULTS = Path(__file__).parent / "results" / "cpu_training.md"
EARLIER = "## Earlier runs"
MAX_SEQ_LENGTH = 512
MICROBATCH_TOKENS = 4096  # As the trainer chooses on a CPU with enough memory.
MEMORY_STEPS = 3


@dataclass(frozen=True, slots=True)
class System:
    """One system of the comparison. `recipe`: what ours sets, None for PEFT; `batch_size` None: as
    the recipe resolves it.
    """

    recipe: Mapping[str, Any] | None = None
    batch_size: int | None = 4
    packing: bool = False
    adapter_dtype: torch.dtype = torch.float32
    autocast: bool = False
    checkpointing: bool = False


OURS = "ours"
OURS_DEFAULT = "ours, default batch, packed"
PEFT = "PEFT"
PEFT_BF16 = "PEFT, bf16 adapters"
PEFT_DEFAULT = "PEFT as SFTTrainer runs it"
PEFT_KEPT = "the same without checkpointing"
LORA = "our own LoRA"
PADDED = {
    OURS: System({}),
    "ours, A frozen": System({"train_a": False}),
    "ours, all A train": System({"train_a": True}),
    LORA: System({"method": "lora"}),
    PEFT: System(),
    PEFT_BF16: System(adapter_dtype=torch.bfloat16),
}
AS_USERS_GET_IT = {
    OURS_DEFAULT: System({}, batch_size=None, packing=True),
    PEFT_DEFAULT: System(batch_size=8, autocast=True, checkpointing=True),
    PEFT_KEPT: System(batch_size=8, autocast=True),
}
SYSTEMS = PADDED | AS_USERS_GET_IT


def ours(model: Path, recipe: Recipe, first: list[Microbatch]) -> Step:
    training = OurTraining(load_base_model(model), create_method(recipe), recipe, first)
    rate = recipe.learning_rate or recipe.automatic_rate().value
    return lambda batch: training.step(batch, rate)


def peft(model: Path, rank: int, system: System) -> Step:
    wrapped = create_peft(model, rank, checkpointing=system.checkpointing)
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(system.adapter_dtype)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)

    def step(batch: list[Microbatch]) -> float:
        total = 0.0
        for microbatch in batch:
            with torch.autocast("cpu", torch.bfloat16, enabled=system.autocast):
                loss = mean_loss(wrapped, microbatch) / len(batch)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def timed(step: Step, batches: list[list[Microbatch]]) -> tuple[float, float]:
    """(real tokens per second, last loss)."""
    loss = 0.0
    start = time.perf_counter()
    for batch in batches:
        loss = step(batch)
    return sum(microbatch.num_tokens for batch in batches for microbatch in batch) / (
        time.perf_counter() - start
    ), loss


class Setup:
    """The model, the records and the batches of every system."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        self.args = args
        self.sequences = chat_dataset(args.data, load_tokenizer(args.model), MAX_SEQ_LENGTH)

    def recipe(self, system: System) -> Recipe:
        """Return the recipe of ours, or of PEFT's batches."""
        return Recipe(
            rank=self.args.rank,
            max_seq_length=MAX_SEQ_LENGTH,
            batch_size=system.batch_size,
            packing=system.packing,
            **(system.recipe or {}),
        ).resolved(len(self.sequences))

    def batches(self, system: System) -> Iterator[list[Microbatch]]:
        """Yield steps without end: the same records for systems of one batch size."""
        recipe = self.recipe(system)
        assert recipe.batch_size is not None
        loader = Loader(
            self.sequences, recipe.batch_size, MICROBATCH_TOKENS, system.packing, seed=0
        )
        while True:
            yield loader.next_step()

    def step(self, system: System) -> Step:
        """Return a function that trains one step."""
        if system.recipe is None:
            return peft(self.args.model, self.args.rank, system)
        return ours(self.args.model, self.recipe(system), next(self.batches(system)))


def peak_memory(system: System, args: argparse.Namespace) -> int:
    """Bytes; for a fresh process."""
    setup = Setup(args)
    step = setup.step(system)
    batches = setup.batches(system)
    for _ in range(1 if args.short else MEMORY_STEPS):
        step(next(batches))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peaks_of(systems: Mapping[str, System], args: argparse.Namespace) -> dict[str, int]:
    """Return the peak bytes of every system."""
    peaks = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, system in systems.items():
            peaks[name] = pool.submit(peak_memory, system, args).result()
            print(f"{name}: peak memory {peaks[name] / 2**20:,.0f} MiB", flush=True)
    return peaks


@dataclass(frozen=True, slots=True)
class Rates:
    """Real tokens per second of each system in each round, and the GEMMs' share of the time of the
    first one's steps, in each round.
    """

    tokens: Mapping[str, list[float]]
    gemm_shares: list[float]

    def median(self, name: str) -> float:
        return statistics.median(self.tokens[name])

    def ratio(self, name: str, other: str) -> float:
        rounds = zip(self.tokens[name], self.tokens[other], strict=True)
        return statistics.median(rate / peer for rate, peer in rounds)


def measure_speed(systems: Mapping[str, System], args: argparse.Namespace) -> Rates:
    setup = Setup(args)
    steps = {name: setup.step(system) for name, system in systems.items()}
    batches = {name: setup.batches(system) for name, system in systems.items()}
    first = next(iter(systems))
    rates = Rates({name: [] for name in systems}, [])
    for round_ in range(args.rounds + 1):
        for name, step in steps.items():
            of_round = [next(batches[name]) for _ in range(args.steps)]
            rate, loss = timed(step, of_round)
            if round_ == 0:  # the first round warms up
                continue
            rates.tokens[name].append(rate)
            print(f"{name}: {rate:.0f} tokens/s (loss {loss:.3f})", flush=True)
            if name == first:
                seconds = sum(m.num_tokens for batch in of_round for m in batch) / rate
                microbatches = [microbatch for batch in of_round for microbatch in batch]
                alone = gemm_seconds(args.model, args.rank, microbatches)
                rates.gemm_shares.append(alone / seconds)
    return rates


def report(args: argparse.Namespace, peaks: Mapping[str, int], rates: Rates) -> str:
    """Return the tables, in Markdown."""
    kind = "without bf16 instructions" if LACKS_BF16 else "with bf16 instructions"
    form = "short form, " if args.short else ""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {args.threads} threads of a CPU {kind}, torch "
        f"{torch.__version__}, transformers {version('transformers')}, peft {version('peft')}; "
        f"{form}{args.rounds} rounds of {args.steps} steps; {args.model.name}, {args.data.name}.",
        "",
        "| as users get it | tokens/s | ours is faster by | peak memory |",
        "|---|---:|---:|---:|",
        *(row_of(name, OURS_DEFAULT, peaks, rates) for name in AS_USERS_GET_IT),
        "",
        "| padded, the same 4 records | tokens/s | ours is faster by | peak memory |",
        "|---|---:|---:|---:|",
        *(row_of(name, OURS, peaks, rates) for name in PADDED),
        "",
        "The GEMMs of our padded steps alone take "
        f"{100 * statistics.median(rates.gemm_shares):.0f} % of the time of those steps.",
    ]
    return "\n".join(lines) + "\n"


def row_of(name: str, ours: str, peaks: Mapping[str, int], rates: Rates) -> str:
    ratio = "" if name == ours else f"{rates.ratio(ours, name):.2f}"
    return f"| {name} | {rates.median(name):.0f} | {ratio} | {peaks[name] / 2**20:,.0f} MiB |"


def write_results(tables: str) -> None:
    """Replace what stands above the earlier runs."""
    earlier = RESULTS.read_text().partition(EARLIER)[2]
    arguments = [Path(part).name if "/" in part else part for part in sys.argv[1:]]
    command = f"```\npython -m benchmarks.cpu_training {shlex.join(arguments)}\n```\n"
    page = f"# Training speed on a CPU\n\n{command}\n{tables}\n{EARLIER}{earlier}"
    RESULTS.write_text(page)


def arguments_of(description: str | None) -> argparse.Namespace:
    parser = parser_of(description)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parents[1] / "demo" / "support_desk.jsonl"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="steps of each system in each round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="two rounds of one step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.short:
        args.rounds, args.steps = 2, 1
    return args


def main() -> None:
    args = arguments_of(__doc__)
    tables = report(args, peaks_of(SYSTEMS, args), measure_speed(SYSTEMS, args))
    print(tables)
    write_results(tables)


if __name__ == "__main__":
    main()
