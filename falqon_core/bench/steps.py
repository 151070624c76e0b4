"""Seconds of one optimizer step of a whole model: ours against its peers (peers.py), on the same
microbatches, in turn.

Two workloads. *published*: records of one length, every token a label, as FALQON was measured.
*packed*: as many records of real lengths, packed; lengths are quantiles of a log-normal
distribution (median 180 tokens, sigma 0.6, cut at the published length), so every run and every
system sees the same ones.

Models of 7B do not fit beside each other, so a round makes, measures and frees one system after the
other, and rounds follow each other while time remains: drift (heat, clocks) affects all of them.
Each system gets the fastest of a fixed list of placements that its memory allows: the largest
microbatch, first without activation checkpointing. Steps are the trainer's own (train/step.py):
forward, backward, clipping, AdamW, refresh. Peers get our attention and loss, and ours of norms and
SwiGLU where they are not compiled.

What is given up: loading data and what a trainer does between steps are not timed.
"""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig

from falqon_core.bench.model import dimensions_of, llama_7b, random_model
from falqon_core.bench.peers import PeftLora, PeftQLora, TorchAO
from falqon_core.bench.timing import Deadline, wait_for_device, what_went_wrong
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import is_allocation_failure
from falqon_core.data.loader import GPU_ROW_MULTIPLE, Microbatch, microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.estimate.estimate import training_flops
from falqon_core.estimate.memory import plan_memory, usable_bytes
from falqon_core.methods import Trainable
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.supervised import Supervised
from falqon_core.train.memory import available_bytes
from falqon_core.train.optimizer import Optimizer
from falqon_core.train.step import StepBatch, StepResult, train_step

LEARNING_RATE = 1e-5
MEDIAN_RECORD_TOKENS = 180
LOG_LENGTH_DEVIATION = 0.6
SHORTEST_RECORD_TOKENS = 8
WARM_UP_STEPS = 2
MIN_STEPS = 2
MAX_ROUNDS = 5
MEASURED = "measured"


@dataclass(frozen=True)
class StepSystem:
    """A system of the table, with the packages that it needs."""

    name: str
    packages: tuple[str, ...]
    method: Callable[[Recipe], Trainable]


OUR_SYSTEM = StepSystem("FALQON, anchored (ours)", (), Falqon)
SYSTEMS = (
    OUR_SYSTEM,
    StepSystem("LoRA, bf16 (PEFT)", ("peft",), PeftLora),
    StepSystem("QLoRA, nf4 (bitsandbytes)", ("peft", "bitsandbytes"), PeftQLora),
    StepSystem("LoRA, FP8 (torchao, compiled)", ("peft", "torchao"), TorchAO),
)


@dataclass(frozen=True, slots=True)
class StepSetup:
    """The model and the step that are measured, the published ones by default."""

    config: LlamaConfig = field(default_factory=llama_7b)
    rank: int = 64
    num_records: int = 16
    record_tokens: int = 528

    def recipe(self, device: torch.device) -> Recipe:
        """Return the recipe with the base copy that training would choose, or without one where
        none fits; the choice of A changes nothing about speed.
        """
        options = {
            "rank": self.rank,
            "batch_size": self.num_records,
            "max_seq_length": self.record_tokens,
            "a_init": "orthonormal",
        }
        recipe = Recipe.model_validate(options).resolved(self.num_records)
        plan = plan_memory(
            dimensions_of(self.config),
            recipe,
            usable_bytes(available_bytes(device)),
            device.type == "cpu",
        )
        base_copy = "none" if plan is None else plan.recipe.base_copy
        return recipe.model_copy(update={"base_copy": base_copy})


@dataclass(frozen=True)
class Workload:
    """The records of one step, and their form."""

    name: str
    records: tuple[TokenSequence, ...]
    packing: bool

    @property
    def num_tokens(self) -> int:
        """Return the tokens of all records."""
        return sum(len(record) for record in self.records)

    @property
    def keys_per_token(self) -> float:
        """Return the keys that a token attends to on average."""
        return sum(len(record) * (len(record) + 1) / 2 for record in self.records) / self.num_tokens

    def microbatches(self, tokens: int) -> list[Microbatch]:
        """Return the forward passes of at most `tokens` positions."""
        return microbatches(
            self.records, tokens, self.packing, GPU_ROW_MULTIPLE if self.packing else 1
        )


class PassSize(NamedTuple):
    """The size of a forward pass, and activation checkpointing on or off."""

    microbatch_tokens: int
    checkpointing: bool


@dataclass
class StepTimings:
    """One system on one workload. `status` is "measured", or why there are no figures; `seconds` of
    each timed step of all rounds.

    `bound_flops` are the operations of our method without recomputation, the same for all systems
    (method-products.md).
    """

    system: str
    workload: str
    num_tokens: int
    bound_flops: float
    status: str = MEASURED
    seconds: list[float] = field(default_factory=list)
    rounds: int = 0
    microbatch_tokens: int | None = None
    checkpointing: bool | None = None
    base_copy: str | None = None
    peak_bytes: int | None = None

    @property
    def median_seconds(self) -> float:
        """Return the median of all timed steps."""
        return statistics.median(self.seconds)


def workloads(setup: StepSetup) -> tuple[Workload, Workload]:
    """Return the workloads: records of one length, padded; and of log-normal lengths, packed."""
    generator = np.random.Generator(np.random.PCG64(0))

    def record(length: int) -> TokenSequence:
        ids = generator.integers(3, setup.config.vocab_size, length, dtype=np.int32)
        return TokenSequence(ids, np.ones(length, dtype=bool))

    same = [setup.record_tokens] * setup.num_records
    real = lengths(setup.num_records, setup.record_tokens)
    return (
        Workload("published", tuple(record(length) for length in same), packing=False),
        Workload("packed", tuple(record(length) for length in real), packing=True),
    )


def lengths(count: int, longest: int) -> list[int]:
    """Return `count` quantiles of the log-normal distribution, shortest first."""
    normal = statistics.NormalDist()
    quantiles = (
        MEDIAN_RECORD_TOKENS * np.exp(LOG_LENGTH_DEVIATION * normal.inv_cdf((i + 0.5) / count))
        for i in range(count)
    )
    return [min(longest, max(SHORTEST_RECORD_TOKENS, round(float(length)))) for length in quantiles]


def placements(setup: StepSetup) -> list[PassSize]:
    """Return the placements, from the fastest expected to the one of least memory."""
    sizes = [setup.num_records * setup.record_tokens]
    while sizes[-1] > setup.record_tokens:
        sizes.append(max(setup.record_tokens, sizes[-1] // 2))
    return [PassSize(size, checkpointing) for checkpointing in (False, True) for size in sizes]


def measure_steps(
    setup: StepSetup,
    device: torch.device,
    deadline: Deadline,
    budget_seconds: float,
    tell: Callable[[str], None],
    max_rounds: int = MAX_ROUNDS,
    systems: Sequence[StepSystem] = SYSTEMS,
    save: Callable[[list[StepTimings]], None] = lambda _: None,
) -> list[StepTimings]:
    """Measure all systems on both workloads, `budget_seconds` each a round; at least one round,
    more while another fits before `deadline`. `save` gets all results, whole or not, after each
    system.
    """
    loads = workloads(setup)
    recipe = setup.recipe(device)
    results = {
        (system.name, load.name): _empty(system, load, setup, recipe)
        for system in systems
        for load in loads
    }
    for round_ in range(max_rounds):
        before = deadline.left
        for system in systems:
            mine = [
                (load, result)
                for load in loads
                if (result := results[system.name, load.name]).status == MEASURED
            ]
            if mine and deadline.left > 0:
                tell(f"round {round_ + 1}: {system.name}")
                _measure_system(system, mine, setup, recipe, device, budget_seconds)
                save(list(results.values()))
                _free_memory(device)
        if deadline.left < before - deadline.left:
            break
    for result in results.values():
        if result.status == MEASURED and not result.seconds:
            result.status = "not measured: the time limit was reached"
    return list(results.values())


def _empty(system: StepSystem, load: Workload, setup: StepSetup, recipe: Recipe) -> StepTimings:
    missing = [name for name in system.packages if importlib.util.find_spec(name) is None]
    flops = training_flops(
        dimensions_of(setup.config), recipe, load.num_tokens, load.keys_per_token
    )
    result = StepTimings(system.name, load.name, load.num_tokens, flops)
    if missing:
        result.status = f"not installed: {', '.join(missing)}"
    if system is OUR_SYSTEM:
        result.base_copy = recipe.base_copy
    return result


def _measure_system(
    system: StepSystem,
    mine: Sequence[tuple[Workload, StepTimings]],
    setup: StepSetup,
    recipe: Recipe,
    device: torch.device,
    budget_seconds: float,
) -> None:
    """Measure one round of one system, into its results; a failure is written there."""
    try:
        training = MeasuredTraining(system, setup, recipe, device)
    # A peer that does not work on this card is a line of the table, not the end of it.
    except Exception as error:
        for _, result in mine:
            result.status = what_went_wrong(error)
        return
    for load, result in mine:
        try:
            training.measure(load, result, placements(setup), budget_seconds)
        except Exception as error:
            result.status = what_went_wrong(error)


class MeasuredTraining:
    """One model prepared by one method."""

    def __init__(
        self, system: StepSystem, setup: StepSetup, recipe: Recipe, device: torch.device
    ) -> None:
        self.device = device
        self.model = random_model(setup.config, device)
        self.method = system.method(recipe)
        self.method.prepare(self.model, [])
        self.optimizer = Optimizer(self.method.parameters(), weight_decay=0.0, max_grad_norm=1.0)
        self._forwards = [layer.forward for layer in self.model.base_model.layers]

    def measure(
        self,
        load: Workload,
        result: StepTimings,
        choices: Sequence[PassSize],
        budget_seconds: float,
    ) -> None:
        """Add timed steps to `result`, after some that warm up in the first placement that fits
        (that of the round before, if any).
        """
        if result.microbatch_tokens is not None:
            choices = choices[
                choices.index(PassSize(result.microbatch_tokens, bool(result.checkpointing))) :
            ]
        chosen, batches = self._place(load, choices)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = list(self._timed_steps(load, batches, Deadline(budget_seconds)))
        if chosen != (result.microbatch_tokens, result.checkpointing):
            result.seconds = []  # The earlier seconds were of another placement.
        result.seconds += seconds
        result.rounds += 1
        result.microbatch_tokens, result.checkpointing = chosen
        if self.device.type == "cuda":
            result.peak_bytes = max(
                result.peak_bytes or 0, torch.cuda.max_memory_allocated(self.device)
            )

    def _place(
        self, load: Workload, choices: Sequence[PassSize]
    ) -> tuple[PassSize, list[Microbatch]]:
        """Warm up in the first of `choices` that memory allows. Raises the error of the last."""
        for choice in choices:
            self._set_checkpointing(choice.checkpointing)
            batches = load.microbatches(choice.microbatch_tokens)
            try:
                for _ in range(WARM_UP_STEPS):
                    self.step(load, batches)
            except Exception as error:
                if choice is choices[-1] or not is_allocation_failure(error):
                    raise
            else:
                return choice, batches
            # Outside of the handler, whose traceback holds the activations.
            self.optimizer.zero_grad()
            _free_memory(self.device)
        raise AssertionError("there is at least one placement")

    def _timed_steps(
        self, load: Workload, batches: Sequence[Microbatch], deadline: Deadline
    ) -> Iterator[float]:
        number = 0
        while number < MIN_STEPS or deadline.left > 0:
            wait_for_device(self.device)
            start = time.perf_counter()
            self.step(load, batches)
            wait_for_device(self.device)
            yield time.perf_counter() - start
            number += 1

    def step(
        self, load: Workload, batches: Sequence[Microbatch], learning_rate: float = LEARNING_RATE
    ) -> StepResult:
        """Run one optimizer step on the workload."""
        objective = Supervised()
        count = sum(objective.count(microbatch) for microbatch in batches)
        batch = StepBatch(1, batches, count, load.num_tokens)
        return train_step(self.model, self.method, objective, self.optimizer, batch, learning_rate)

    def _set_checkpointing(self, on: bool) -> None:
        """Wrap each layer's forward as the method left it, a compiled one included."""
        for layer, forward in zip(self.model.base_model.layers, self._forwards, strict=True):
            layer.forward = (
                partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
                if on
                else forward
            )


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
