"""Training speed on CPU: ours against PEFT LoRA, same base, same batches, in turn, in one process.

    make benchmark
    python -m benchmarks.cpu_training --model .cache/smollm2 [--data rows.jsonl]

Five systems train the same bf16 base at rank 64 on all linear layers: ours; ours where A is frozen,
and where it trains everywhere; PEFT as `get_peft_model` makes it (fp32 adapters); PEFT with bf16
adapters. PEFT uses
transformers' own forward, loss and sdpa attention. Optimizer (fused AdamW) and clipping are the
same for all. Rounds interleave the systems, so that a busy machine hits all of them; rates are
medians over rounds of
*real* tokens per second, ratios medians of the rounds' ratios. Both ratios are with packing off; a
further line shows ours with packing on. Peak memory is that of a process of its own for each
system, taken after `MEMORY_STEPS` steps; loading the model is part of it.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# as the trainer's command sets it, here for all systems
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks import parser_of
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader, Microbatch
from falqon_core.data.sequences import TokenSequence
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.train.model import load_base_model, load_tokenizer

Step = Callable[[list[Microbatch]], float]
MAX_SEQ_LENGTH = 512
MEMORY_STEPS = 3
A_FROZEN = "ours, A frozen"
A_TRAINS = "ours, all A train"
TRAIN_A = {"ours": None, A_FROZEN: False, A_TRAINS: True}
SYSTEMS = (*TRAIN_A, "peft", "peft, bf16 adapters")


def ours(model: Path, recipe: Recipe, first: list[Microbatch]) -> Step:
    base = load_base_model(model)
    method = Falqon(recipe)
    method.prepare(base, first)
    parameters = list(method.parameters().values())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate or recipe.automatic_rate().value,
        weight_decay=0.0,
        fused=True,
    )

    def step(batch: list[Microbatch]) -> float:
        num_labels = sum(microbatch.num_labels for microbatch in batch)
        total = 0.0
        for microbatch in batch:
            loss = microbatch_loss(base, microbatch)[0] / num_labels
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
        return total

    return step


def peft(model: Path, rank: int, adapter_dtype: torch.dtype) -> Step:
    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
    )
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(base, lora)
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.to(adapter_dtype)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    wrapped.train()

    def step(batch: list[Microbatch]) -> float:
        total = 0.0
        for microbatch in batch:
            labels = torch.full_like(microbatch.labels, -100)  # transformers shifts by itself
            labels[:, 1:] = microbatch.labels[:, :-1]
            loss = wrapped(
                input_ids=microbatch.input_ids,
                attention_mask=microbatch.attention_mask,
                labels=labels,
                use_cache=False,
            ).loss / len(batch)
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


def batches_of(
    sequences: list[TokenSequence], batch_size: int, packing: bool
) -> Iterator[list[Microbatch]]:
    loader = Loader(sequences, batch_size, max(MAX_SEQ_LENGTH, 4096), packing, seed=0)
    while True:
        yield loader.next_step()


def make(system: str, args: argparse.Namespace, sequences: list[TokenSequence]) -> Step:
    if system in TRAIN_A:
        recipe = Recipe(
            rank=args.rank,
            max_seq_length=MAX_SEQ_LENGTH,
            batch_size=args.batch_size,
            train_a=TRAIN_A[system],
        ).resolved(len(sequences))
        return ours(args.model, recipe, next(batches_of(sequences, args.batch_size, packing=False)))
    return peft(args.model, args.rank, torch.float32 if system == "peft" else torch.bfloat16)


def peak_memory(system: str, args: argparse.Namespace) -> int:
    """Bytes; for a fresh process."""
    torch.set_num_threads(args.threads)
    sequences = chat_dataset(args.data, load_tokenizer(args.model), MAX_SEQ_LENGTH)
    step = make(system, args, sequences)
    batches = batches_of(sequences, args.batch_size, packing=False)
    for _ in range(MEMORY_STEPS):
        step(next(batches))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_speed(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    sequences = chat_dataset(args.data, load_tokenizer(args.model), MAX_SEQ_LENGTH)
    padded, packed = (batches_of(sequences, args.batch_size, packing) for packing in (False, True))
    steps = {system: make(system, args, sequences) for system in SYSTEMS}
    steps["ours, packing on"] = steps["ours"]
    rates: dict[str, list[float]] = {name: [] for name in steps}
    losses = {}
    for round_ in range(args.rounds + 1):
        same = {
            False: [next(padded) for _ in range(args.steps)],
            True: [next(packed) for _ in range(args.steps)],
        }
        for name, step in steps.items():
            rate, losses[name] = timed(step, same["packing" in name])
            if round_ > 0:  # the first round warms up
                rates[name].append(rate)
    for name, measured in rates.items():
        print(f"{name}: {statistics.median(measured):.0f} tokens/s (loss {losses[name]:.3f})")
    peers = (
        ("ratio", "peft"),
        ("ratio to bf16 adapters", "peft, bf16 adapters"),
        ("ratio to ours where A is frozen", A_FROZEN),
        ("ratio to ours where all A train", A_TRAINS),
    )
    for label, peer in peers:
        ratios = [ours / other for ours, other in zip(rates["ours"], rates[peer], strict=True)]
        print(f"{label}: {statistics.median(ratios):.2f}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parents[1] / "demo" / "support_desk.jsonl"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="steps of each system in each round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for system in SYSTEMS:
            print(
                f"{system}: peak memory "
                f"{pool.submit(peak_memory, system, args).result() / 2**20:,.0f} MiB",
                flush=True,
            )
    measure_speed(args)


if __name__ == "__main__":
    main()
