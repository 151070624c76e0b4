r"""Training at four and eight bits against LoRA that is rounded to the same form afterwards.

    python -m benchmarks.four_bits --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

Each training takes `--steps` of two records of at most 160 tokens, with all automatic values, or
with what its variant changes. FALQON computes with the rounded weights at each step
(falqon_core/meld/block_rows.py), so that its loss is that of the model as it is served. LoRA trains
in bf16; its merged weights are rounded to each form by the same choice of scales, and for Q4_0 by
llama.cpp's quantizer as well. QLoRA is merged and rounded alike; QA-LoRA trains in Q4_1 itself.
Activations are not rounded. Another task is another pair of files, with a name (`--task`).

Each model is judged on rows of both halves of the test file: variants are chosen by the first, and
reported on the second. Pairs compare row by row: each row counts once, as the mean over the seeds
of the two models' difference. Each model is one line of the CSV and is not made again; LoRA's
adapters are kept under `--output`, so that another form needs no second training. Losses do not
depend on how busy the machine is.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gguf import GGMLQuantizationType, dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.four_bits_table import (
    BASE,
    BF16,
    FALQON,
    FORMS,
    FP8,
    LLAMA,
    LORA,
    Q4_1,
    QA_LORA,
    QLORA,
    STEPS,
    TASK,
    Model,
    report,
)
from benchmarks.our_training import OurTraining
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader, Microbatch
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.export.gguf_blocks import quantize_blocks
from falqon_core.meld.block_quantizer import QUANTIZERS, BlockQuantizer, round_e2m1_
from falqon_core.meld.block_rows import BlockRows
from falqon_core.meld.convert import swap_blocks, target_linears
from falqon_core.meld.linear import MeldedLinear
from falqon_core.methods import create_method
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.lora import Lora
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.model import load_base_model, load_dimensions, load_tokenizer
from falqon_core.train.optimizer import learning_rate

RESULTS = Path(__file__).parent / "results"
NUM_RECORDS = 2000  # Of the training file, before long ones are left out.
MOST_TOKENS = 160  # Of a record: a quarter of GSM8K, so that a training takes minutes on one core.
BATCH_SIZE = 2
ROWS_TOGETHER = 8  # Of one forward pass over held-out rows.
MAX_SEQ_LENGTH = 512
PEERS = {LORA: BF16, QLORA: BF16, QA_LORA: Q4_1}  # And the form that each trains.


@dataclass(frozen=True)
class Variant:
    """A change of FALQON: the multiple of its automatic rate, the steps between two choices of the
    scales (0: the base's stay), B begun at the base's rounding error along A, times `feedback`,
    training in FP8 and rounding afterwards, rounding at random until the last step.
    """

    rate_factor: float = 1.0
    scale_steps: int = 0
    feedback: float = 0.0
    rounds_afterwards: bool = False
    rounds_at_random: bool = False
    recipe: tuple[tuple[str, object], ...] = ()


VARIANTS = {
    "": Variant(),
    "rate x 2": Variant(rate_factor=2.0),
    "rate x 0.5": Variant(rate_factor=0.5),
    "scales chosen every 10 steps": Variant(scale_steps=10),
    "B begun at the error": Variant(feedback=1.0),
    "trained in FP8, rounded": Variant(rounds_afterwards=True),
    "all A train": Variant(recipe=(("train_a", True),)),
    "A along the rounding error": Variant(recipe=(("a_init", "quant_error"),)),
    "rounded at random but for the last step": Variant(rounds_at_random=True),
}


class Bench:
    """The files of the benchmark, read once."""

    def __init__(self, args: argparse.Namespace) -> None:
        model, train, test, held_out = args.model, args.train, args.test, args.held_out
        self.model = model
        self.steps: int = args.steps
        self.output: Path = args.output / f"{args.task}-{args.steps}"
        tokenizer = load_tokenizer(model)
        lines = train.read_text().splitlines()[:NUM_RECORDS]
        self.output.mkdir(parents=True, exist_ok=True)
        first = self.output / "train.jsonl"
        first.write_text("\n".join(lines) + "\n")
        self.records = _short(chat_dataset(first, tokenizer, MAX_SEQ_LENGTH))
        rows = chat_dataset(test, tokenizer, MAX_SEQ_LENGTH)
        half = len(rows) // 2
        halves = _short(rows[:half]), _short(rows[half:])
        least = min(map(len, halves))
        if least < held_out:
            raise SystemExit(f"--held-out: a half of the test file has only {least} short rows")
        self.rows = [row for half in halves for row in half[:held_out]]
        self.width = load_dimensions(model).hidden_size

    def recipe(self, method: str, seed: int, factor: float = 1.0, **options: object) -> Recipe:
        recipe = Recipe.model_validate(
            {"method": method, "seed": seed, "batch_size": BATCH_SIZE, "max_steps": self.steps}
            | {"max_seq_length": MAX_SEQ_LENGTH}
            | options
        )
        rate = recipe.automatic_rate(self.width).value * factor
        return recipe.model_copy(update={"learning_rate": rate}).resolved(len(self.records))

    def finish(self, made: Model, model: PreTrainedModel) -> Model:
        """Return the line with its losses."""
        losses = losses_by_row(model, self.rows)
        half = len(losses) // 2
        return replace(
            made,
            choosing=round(statistics.fmean(losses[:half]), 5),
            reported=round(statistics.fmean(losses[half:]), 5),
            rows=" ".join(f"{loss:.4f}" for loss in losses),
        )

    def train(self, model: PreTrainedModel, method: Falqon | Lora) -> str:
        """Train, and return the mean training loss of each quarter."""
        recipe = method.recipe
        loader = Loader(self.records, BATCH_SIZE, 4096, packing=True, seed=recipe.seed)
        first = Loader(self.records, BATCH_SIZE, 4096, packing=True, seed=recipe.seed)
        batches = [batch for _ in range(4) for batch in first.next_step()]
        training = OurTraining(model, method, recipe, batches)
        losses = [
            training.step(loader.next_step(), learning_rate(recipe, step, self.steps))
            for step in range(self.steps)
        ]
        quarter = self.steps // 4
        means = (
            statistics.fmean(losses[at : at + quarter]) for at in range(0, 4 * quarter, quarter)
        )
        return " ".join(f"{mean:.4f}" for mean in means)


def _short(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    return [sequence for sequence in sequences if len(sequence) <= MOST_TOKENS]


@torch.no_grad()
def losses_by_row(model: PreTrainedModel, rows: Sequence[TokenSequence]) -> list[float]:
    losses = []
    for at in range(0, len(rows), ROWS_TOGETHER):
        together = collate(rows[at : at + ROWS_TOGETHER], packing=True)
        sums = sequence_log_probabilities(model, together).tolist()
        losses += [-one / count for one, count in zip(sums, together.label_counts, strict=True)]
    return losses


def round_to(form: str, weight: Tensor, quantizer: BlockQuantizer | None) -> Tensor:
    """Return a merged weight fp32 [O, I] in the form, as values."""
    if form == BF16:
        return weight
    if form == FP8:
        return quantize_rows(weight)[0]
    if form == LLAMA:
        block = GGMLQuantizationType.Q4_0
        return torch.from_numpy(dequantize(quantize_blocks(weight, block), block))
    assert quantizer is not None
    return quantizer.quantize(weight)[0]


@torch.no_grad()
def serve(model: PreTrainedModel, weights: dict[str, Tensor], form: str) -> None:
    """Give the model the merged weights, fp32 [O, I] by the linear's name, rounded to the form.

    Units are those of one linear, not of a group: with powers of two that moves no value but where
    a scale leaves e4m3's normal numbers.
    """
    for name, weight in weights.items():
        quantizer = QUANTIZERS[form].fitted_to([weight]) if form in QUANTIZERS else None
        linear = nn.Linear(*weight.shape[::-1], bias=False, device="meta")
        # llama.cpp's scales have more bits than bf16 leaves them, so those values are rounded.
        values = round_to(form, weight, quantizer).bfloat16()
        linear.weight = nn.Parameter(values, requires_grad=False)
        model.set_submodule(name, linear)


def make_base(bench: Bench, wanted: Sequence[Model]) -> Iterator[Model]:
    """Yield the base model in each form."""
    model = load_base_model(bench.model)
    swap_blocks(model)
    weights = {
        name: linear.weight.detach().float() for name, linear in target_linears(model, None).items()
    }
    for made in wanted:
        serve(model, weights, made.form)
        yield bench.finish(made, model)


def make_peer(bench: Bench, wanted: Sequence[Model]) -> Iterator[Model]:
    """Yield one training of LoRA, or of a method with its adapters, in each form."""
    kind, seed = wanted[0].method, wanted[0].seed
    recipe = bench.recipe(kind, seed)
    model, method = load_base_model(bench.model), create_method(recipe)
    assert isinstance(method, Lora)
    path = bench.output / f"{kind}-{seed}.safetensors"
    training = ""
    if path.exists():
        method.restore(model, load_file(path))
    else:
        training = bench.train(model, method)
        save_file(method.state(), path)
    weights = {name: layer.merged_weight().detach() for name, layer in method.layers.items()}
    rate = recipe.learning_rate or 0.0
    for made in wanted:
        if made.form != PEERS[kind]:  # As it trained, with its adapters beside the base.
            serve(model, weights, made.form)
        yield bench.finish(replace(made, learning_rate=rate, training=training), model)


def round_e2m1_at_random_(units: Tensor) -> Tensor:
    """Round fp32 numbers to one of the two of e2m1 around them, the nearer more often, in place.

    Next to a power of two, where the spacing changes, the odds are those of one side.
    """
    spacing = torch.exp2(units.abs().clamp(1.0, 4.0).log2().floor()) / 2
    return round_e2m1_(units.add_((torch.rand_like(units) - 0.5) * spacing))


class VariedFalqon(Falqon):
    """FALQON with what a variant changes of its steps."""

    def __init__(self, recipe: Recipe, variant: Variant, steps: int) -> None:
        super().__init__(recipe)
        self._variant = variant
        self._step, self._last_step = 0, steps

    @torch.no_grad()
    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Begin B at the error, and round at random, where the variant does."""
        with torch.enable_grad():
            super().prepare(model, first_microbatches)
        if self._variant.feedback:
            for layer in self.layers.values():
                assert layer.base is not None
                error = layer.weight.float() - layer.base.values.float()
                # Along the rows of A, which are next to orthonormal: [O, I] . [I, r].
                delta = error @ torch.linalg.pinv(layer.a.float())
                layer.delta.copy_(delta * self._variant.feedback / layer.scaling)
                layer.refresh()
        if self._variant.rounds_at_random:
            self._round_by(round_e2m1_at_random_)

    @torch.no_grad()
    def after_step(self) -> float:
        """Choose scales again, and round the last step to nearest, where the variant does."""
        self._step += 1
        every = self._variant.scale_steps
        if every and self._step % every == 0:
            for layer in self.layers.values():
                layer.round_a()
                assert isinstance(layer.w_rows, BlockRows)
                assert layer.base is not None
                layer.w_rows.choose_scales(layer.base, layer.delta.detach(), layer.a, layer.scaling)
        if self._variant.rounds_at_random and self._step == self._last_step:
            self._round_by(round_e2m1_)
        return super().after_step()

    def _round_by(self, round_: Callable[[Tensor], Tensor]) -> None:
        for layer in self.layers.values():
            assert layer.packed.quantizer is not None
            layer.packed.quantizer = replace(layer.packed.quantizer, round_=round_)


def make_falqon(bench: Bench, made: Model) -> Model:
    """Return one training of FALQON."""
    variant = VARIANTS[made.variant]
    form = "fp8" if variant.rounds_afterwards else made.form
    options = {"weights": form} | dict(variant.recipe)
    recipe = bench.recipe(FALQON, made.seed, variant.rate_factor, **options)
    model = load_base_model(bench.model)
    method = VariedFalqon(recipe, variant, bench.steps)
    training = bench.train(model, method)
    if variant.rounds_afterwards:
        layers = method.layers.items()
        serve(model, {name: _merged(layer) for name, layer in layers}, made.form)
    rate = recipe.learning_rate or 0.0
    return bench.finish(replace(made, learning_rate=rate, training=training), model)


@torch.no_grad()
def _merged(layer: MeldedLinear) -> Tensor:
    """Return W + BA before any rounding, fp32 [O, I]."""
    assert layer.base is not None
    return layer.base.values.float() + layer.scaling * (layer.delta @ layer.a.float())


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--task", default=TASK, help="what the files are called in the table")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=Path(".cache/four_bits"), help="adapters")
    parser.add_argument("--held-out", type=int, default=48, help="rows of each half")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[BASE, LORA, FALQON])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=[""])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = args.results / "four_bits.csv"
    bench = Bench(args)

    def missing(method: str, seed: int, variant: str = "") -> list[Model]:
        done = {each.key for each in read(table, Model)}
        made = Model(method, "", variant, seed, args.held_out, args.task, args.steps)
        wanted = [replace(made, form=form) for form in args.forms]
        return [each for each in wanted if each.key not in done]

    def keep(made: Model) -> None:
        append(table, [made])
        (args.results / "four_bits.md").write_text(report(read(table, Model)))
        print(*made.key, made.training, made.choosing, made.reported, flush=True)

    if BASE in args.methods and (wanted := missing(BASE, 0)):
        for made in make_base(bench, wanted):
            keep(made)
    for seed in args.seeds:
        for kind in PEERS:
            if kind in args.methods and (wanted := missing(kind, seed)):
                for made in make_peer(bench, wanted):
                    keep(made)
        if FALQON in args.methods:
            for variant in args.variants:
                for made in missing(FALQON, seed, variant):
                    if made.form in (FP8, *QUANTIZERS):
                        keep(make_falqon(bench, made))


if __name__ == "__main__":
    main()
