r"""Training at four and eight bits against LoRA that is rounded to the same form afterwards.

    python -m benchmarks.four_bits --model .cache/smollm2 \
      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl

Each training takes 60 steps of two records of at most 160 tokens, with all automatic values, or
with what its variant changes. FALQON computes with the rounded weights at each step
(falqon_core/meld/block_rows.py), so that its loss is that of the model as it is served. LoRA trains
in bf16; its merged weights are rounded to each form by the same choice of scales, and for Q4_0 by
llama.cpp's quantizer as well. Activations are not rounded.

Each model is judged on rows of both halves of the test file: variants are chosen by the first, and
reported on the second. Pairs compare row by row: each row counts once, as the mean over the seeds
of the two models' difference. Each model is one line of the CSV and is not made again; LoRA's
adapters are kept under `--output`, so that another form needs no second training. Losses do not
depend on how busy the machine is.
"""

import csv
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gguf import GGMLQuantizationType, dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks import parser_of
from benchmarks.rows import chat_dataset
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Loader
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.export.gguf_blocks import quantize_blocks
from falqon_core.meld.block_quantizer import QUANTIZERS, BlockQuantizer
from falqon_core.meld.block_rows import BlockRows
from falqon_core.meld.convert import swap_blocks, target_linears
from falqon_core.meld.linear import MeldedLinear
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.lora import Lora
from falqon_core.objectives.loss import microbatch_loss, sequence_log_probabilities
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.model import load_base_model, load_dimensions, load_tokenizer
from falqon_core.train.optimizer import Optimizer, learning_rate

RESULTS = Path(__file__).parent / "results"
NUM_CHOSEN = 250  # Rows of the test file's first half, by which variants are chosen.
NUM_RECORDS = 2000  # Of the training file, before long ones are left out.
MOST_TOKENS = 160  # Of a record: a quarter of GSM8K, so that a training takes minutes on one core.
STEPS = 60
BATCH_SIZE = 2
ROWS_TOGETHER = 8  # Of one forward pass over held-out rows.
MAX_SEQ_LENGTH = 512
BF16, FP8, LLAMA = "bf16", "fp8", "q4_0 by llama.cpp"
FORMS = (BF16, FP8, *QUANTIZERS, LLAMA)
BASE, LORA, FALQON = "base", "lora", "falqon"
INTRODUCTION = """\
SmolLM2-135M on GSM8K's records of at most 160 tokens, 60 steps of two. Losses are nats a token of
the answers, as served with the weights in that form and activations in bf16. LoRA trains in bf16
and is rounded afterwards; FALQON computes with the rounded weights at each step. Variants were
chosen by rows of the first half of the test file, whose loss is given as well; the reported rows
are of the second half and chose nothing, though the seeds are the same. Written by"""

ALSO_TRIED = """\
## How far this goes

At four bits FALQON is ahead of LoRA rounded to the same form with every seed, and leaves a fifth of
the loss that rounding adds, or less. At eight bits (Q8_0) rounding adds nothing to LoRA's, and
FALQON is ahead by what it learns. Trained in FP8 and rounded to NVFP4 afterwards, FALQON loses as
LoRA does: what is gained comes from training at four bits. The error is of rows; three seeds of one
data set are few. The automatic rate is the best of three on the choosing rows, with one seed; it
was chosen in FP8, with these seeds. An earlier trial of another task, after 75 steps, saw the order
change with the seed. Not trained yet: the other variants, another task, longer trainings. One
block, with three seeds, has the same order (four_bits_block.md).

## Also tried

- B begun from the rounding error of the base, projected on A along the gradient, before any step
  (seed 0, 32 held-out rows, NVFP4): the base has 1.854 in bf16 and 1.858 rounded.
  B that takes the error back makes it 2.269, three times in a row 2.126, B that adds it 1.898, each
  with a standard error of 0.03 to 0.04. Probably A has directions of single inputs, where nearest
  rounding is the least error already and a push to the other side enlarges it. Not trained on.
- Relative errors of the rounded weights of SmolLM2 (18 of its linears): FP8 0.0266, NVFP4 0.0805,
  MXFP4 0.1129, Q4_0 0.0783 (llama.cpp's own scales: 0.0862), Q8_0 0.0085."""


@dataclass(frozen=True)
class Variant:
    """A change of FALQON: the multiple of its automatic rate, the steps between two choices of the
    scales (0: the base's stay), B begun at the base's rounding error along A, times `feedback`,
    training in FP8 and rounding afterwards.
    """

    rate_factor: float = 1.0
    scale_steps: int = 0
    feedback: float = 0.0
    rounds_afterwards: bool = False
    recipe: tuple[tuple[str, object], ...] = ()


VARIANTS = {
    "": Variant(),
    "rate x 2": Variant(rate_factor=2.0),
    "rate x 0.5": Variant(rate_factor=0.5),
    "scales chosen every 10 steps": Variant(scale_steps=10),
    "B begun at the error": Variant(feedback=1.0),
    "trained in FP8, rounded": Variant(rounds_afterwards=True),
    "all A train": Variant(recipe=(("train_a", True),)),
}


@dataclass(frozen=True)
class Model:
    """One model: its losses on rows of the first half of the test file and of the second, their
    mean over the rows and each; by quarters, the mean training loss.
    """

    method: str
    form: str
    variant: str
    seed: int
    held_out: int  # rows of each half
    learning_rate: float = 0.0
    training: str = ""
    choosing: float = 0.0
    reported: float = 0.0
    rows: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return self.method, self.form, self.variant, self.seed, self.held_out

    def row_losses(self, reported: bool = True) -> list[float]:
        """Return the loss of each reported row, or of each choosing one."""
        losses = list(map(float, self.rows.split()))
        return losses[self.held_out :] if reported else losses[: self.held_out]


class Bench:
    """The files of the benchmark, read once."""

    def __init__(self, model: Path, train: Path, test: Path, held_out: int, output: Path) -> None:
        self.model = model
        self.output = output
        tokenizer = load_tokenizer(model)
        lines = train.read_text().splitlines()[:NUM_RECORDS]
        output.mkdir(parents=True, exist_ok=True)
        first = output / "train.jsonl"
        first.write_text("\n".join(lines) + "\n")
        self.records = _short(chat_dataset(first, tokenizer, MAX_SEQ_LENGTH))
        rows = chat_dataset(test, tokenizer, MAX_SEQ_LENGTH)
        halves = _short(rows[:NUM_CHOSEN]), _short(rows[NUM_CHOSEN:])
        least = min(map(len, halves))
        if least < held_out:
            raise SystemExit(f"--held-out: a half of the test file has only {least} short rows")
        self.rows = [row for half in halves for row in half[:held_out]]
        self.width = load_dimensions(model).hidden_size

    def recipe(self, method: str, seed: int, factor: float = 1.0, **options: object) -> Recipe:
        recipe = Recipe.model_validate(
            {"method": method, "seed": seed, "batch_size": BATCH_SIZE, "max_steps": STEPS}
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

    def train(
        self,
        model: PreTrainedModel,
        method: Falqon | Lora,
        begin: Callable[[], None],
        after_step: Callable[[int], None],
    ) -> str:
        """Train, and return the mean training loss of each quarter."""
        recipe = method.recipe
        loader = Loader(self.records, BATCH_SIZE, 4096, packing=True, seed=recipe.seed)
        first = Loader(self.records, BATCH_SIZE, 4096, packing=True, seed=recipe.seed)
        method.prepare(model, [batch for _ in range(4) for batch in first.next_step()])
        begin()
        optimizer = Optimizer(
            method.parameters(),
            recipe.weight_decay,
            recipe.max_grad_norm,
            relative_rates=method.relative_rates(),
        )
        losses = []
        for step in range(STEPS):
            batch = loader.next_step()
            num_labels = sum(microbatch.num_labels for microbatch in batch)
            losses.append(0.0)
            for microbatch in batch:
                loss = microbatch_loss(model, microbatch)[0] / num_labels
                loss.backward()
                losses[-1] += loss.item()
            optimizer.clip()
            optimizer.step(learning_rate(recipe, step, STEPS))
            after_step(step + 1)
        quarter = STEPS // 4
        means = (statistics.fmean(losses[at : at + quarter]) for at in range(0, STEPS, quarter))
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


def make_lora(bench: Bench, wanted: Sequence[Model]) -> Iterator[Model]:
    """Yield one training of LoRA in each form."""
    seed = wanted[0].seed
    recipe = bench.recipe(LORA, seed)
    model, method = load_base_model(bench.model), Lora(recipe)
    path = bench.output / f"lora-{seed}.safetensors"
    training = ""
    if path.exists():
        method.restore(model, load_file(path))
    else:
        training = bench.train(model, method, _do_nothing, lambda _: None)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(method.state(), path)
    weights = {name: layer.merged_weight().detach() for name, layer in method.layers.items()}
    rate = recipe.learning_rate or 0.0
    for made in wanted:
        if made.form != BF16:  # As it trained, with its adapters beside the base.
            serve(model, weights, made.form)
        yield bench.finish(replace(made, learning_rate=rate, training=training), model)


def make_falqon(bench: Bench, made: Model) -> Model:
    """Return one training of FALQON."""
    variant = VARIANTS[made.variant]
    form = "fp8" if variant.rounds_afterwards else made.form
    options = {"weights": form} | dict(variant.recipe)
    recipe = bench.recipe(FALQON, made.seed, variant.rate_factor, **options)
    model = load_base_model(bench.model)
    method = Falqon(recipe)

    @torch.no_grad()
    def begin() -> None:
        if variant.feedback:
            for layer in method.layers.values():
                assert layer.base is not None
                error = layer.weight.float() - layer.base.values.float()
                # Along the rows of A, which are next to orthonormal: [O, I] . [I, r].
                delta = error @ torch.linalg.pinv(layer.a.float())
                layer.delta.copy_(delta * variant.feedback / layer.scaling)
                layer.refresh()

    @torch.no_grad()
    def after_step(step: int) -> None:
        if variant.scale_steps and step % variant.scale_steps == 0:
            for layer in method.layers.values():
                layer.round_a()
                assert isinstance(layer.w_rows, BlockRows)
                assert layer.base is not None
                layer.w_rows.choose_scales(layer.base, layer.delta.detach(), layer.a, layer.scaling)
        method.after_step()

    training = bench.train(model, method, begin, after_step)
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


def _do_nothing() -> None:
    """Begin as the method does by itself."""


def read(path: Path) -> list[Model]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Model(
                row["method"],
                row["form"],
                row["variant"],
                int(row["seed"]),
                int(row["held_out"]),
                float(row["learning_rate"]),
                row["training"],
                float(row["choosing"]),
                float(row["reported"]),
                row["rows"],
            )
            for row in csv.DictReader(file)
        ]


def append(path: Path, made: Model) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Model)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(made))


def paired(
    ours: Sequence[Model], theirs: Sequence[Model], reported: bool = True
) -> tuple[float, float, list[float]]:
    """Return the mean difference of a row over the seeds of `ours`, which `theirs` have too, its
    standard error over the rows, and the difference of each seed.
    """
    by_seed = {each.seed: each for each in theirs}
    gaps = [
        [
            a - b
            for a, b in zip(
                each.row_losses(reported), by_seed[each.seed].row_losses(reported), strict=True
            )
        ]
        for each in ours
    ]
    by_row = [statistics.fmean(row) for row in zip(*gaps, strict=True)]
    error = statistics.stdev(by_row) / math.sqrt(len(by_row))
    return statistics.fmean(by_row), error, [statistics.fmean(gap) for gap in gaps]


def report(models: Sequence[Model]) -> str:
    """Return the page: the losses of all models, and FALQON against LoRA rounded afterwards."""
    groups: dict[tuple[str, str, str], list[Model]] = {}
    for made in models:
        groups.setdefault((made.form, made.method, made.variant), []).append(made)
    order = sorted(groups, key=lambda key: (FORMS.index(key[0]), key[1], key[2]))
    lines = [
        "# Four bits, as trained",
        "",
        INTRODUCTION,
        "",
        "    python -m benchmarks.four_bits --model .cache/smollm2 \\",
        "      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl",
        "",
        "| weights | method | variant | rate | seeds | choosing rows | reported rows |",
        "|---|---|---|---:|---|---:|---:|",
    ]
    for form, method, variant in order:
        group = groups[form, method, variant]
        rate = f"{group[0].learning_rate:.2g}" if group[0].learning_rate else ""
        lines.append(
            f"| {form} | {method} | {variant} | {rate} | {_seeds(group)} | "
            f"{statistics.fmean(each.choosing for each in group):.4f} | "
            f"{statistics.fmean(each.reported for each in group):.4f} |"
        )
    lines += ["", *_comparison(groups, order), "", ALSO_TRIED]
    return "\n".join(lines) + "\n"


def _seeds(group: Sequence[Model]) -> str:
    return "" if group[0].method == BASE else ", ".join(str(each.seed) for each in group)


def _comparison(
    groups: dict[tuple[str, str, str], list[Model]], order: Sequence[tuple[str, str, str]]
) -> Iterator[str]:
    yield "FALQON at a form against LoRA rounded to it, on the reported rows and the seeds that"
    yield "both have: the difference and its standard error over the rows, that of each seed, and"
    yield "what is left of the loss that rounding adds to LoRA's in bf16 (-: less than two standard"
    yield "errors); last, the difference on"
    yield "the choosing rows."
    yield ""
    yield (
        "| weights | variant | FALQON minus LoRA rounded | standard errors | each seed | left "
        "| choosing rows |"
    )
    yield "|---|---|---:|---:|---|---:|---:|"
    for form, method, variant in order:
        theirs = groups.get((form, LORA, ""), [])
        in_bf16 = groups.get((BF16, LORA, ""), [])
        seeds = {each.seed for each in theirs} & {each.seed for each in in_bf16}
        ours = [each for each in groups[form, method, variant] if each.seed in seeds]
        if method != FALQON or not ours:
            continue
        gap, error, by_seed = paired(ours, theirs)
        chosen, chosen_error, _ = paired(ours, theirs, reported=False)
        ours_added, _, _ = paired(ours, in_bf16)
        alike = [each for each in theirs if each.seed in {our.seed for our in ours}]
        theirs_added, added_error, _ = paired(alike, in_bf16)
        is_told = theirs_added > 2 * added_error
        left = f"{ours_added / theirs_added:.0%}" if is_told else "-"
        yield (
            f"| {form} | {variant} | {gap:+.4f} ± {error:.4f} | {gap / error:+.1f} | "
            f"{', '.join(f'{each:+.4f}' for each in by_seed)} | {left} | "
            f"{chosen:+.4f} ± {chosen_error:.4f} |"
        )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(".cache/four_bits"), help="adapters")
    parser.add_argument("--held-out", type=int, default=48, help="rows of each half")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[BASE, LORA, FALQON])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=[""])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    table = args.results / "four_bits.csv"
    bench = Bench(args.model, args.train, args.test, args.held_out, args.output)

    def missing(method: str, seed: int, variant: str = "") -> list[Model]:
        done = {each.key for each in read(table)}
        wanted = [Model(method, form, variant, seed, args.held_out) for form in args.forms]
        return [each for each in wanted if each.key not in done]

    def keep(made: Model) -> None:
        append(table, made)
        (args.results / "four_bits.md").write_text(report(read(table)))
        print(*made.key, made.training, made.choosing, made.reported, flush=True)

    if BASE in args.methods and (wanted := missing(BASE, 0)):
        for made in make_base(bench, wanted):
            keep(made)
    for seed in args.seeds:
        if LORA in args.methods and (wanted := missing(LORA, seed)):
            for made in make_lora(bench, wanted):
                keep(made)
        if FALQON in args.methods:
            for variant in args.variants:
                for made in missing(FALQON, seed, variant):
                    if made.form in (FP8, *QUANTIZERS):
                        keep(make_falqon(bench, made))


if __name__ == "__main__":
    main()
