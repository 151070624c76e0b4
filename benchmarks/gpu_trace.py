"""What a training step does on a GPU, as far as a machine without one can say.

Steps are traced (`tests/falqon_core/trace`): launches, bytes, peak; and every Triton kernel that
they launch is compiled, as launched, for every architecture we claim. Writes the file that is
named, `benchmarks/results/gpu_trace.md` by default, and ends with 1 when a kernel does not compile
or takes more shared memory than a block may have. With `--figures` nothing is compiled, and the
part of the page on compiling stays as it was. Nothing runs on a GPU.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu_placements import mixture_lines, placement_lines
from falqon_core.bench.model import dimensions_of, llama_7b
from falqon_core.estimate.step_seconds import (
    BANDWIDTH_SHARE,
    CARDS,
    num_passes,
    share_of_rows,
    step_seconds,
)
from falqon_core.ops.compile import architectures, registers_and_stack
from falqon_core.ops.kernels import triton
from tests.falqon_core.trace.cases import (
    CASES,
    FREE_GIB,
    MODELS,
    MODES,
    OTHERS,
    PLANNED,
    Case,
    planned_recipe,
    usable_on,
)
from tests.falqon_core.trace.figures import Figures, figures_of
from tests.falqon_core.trace.launches import Specialization

RESULT = Path("benchmarks/results/gpu_trace.md")
BEYOND = "## Beyond one card"
MIXTURES = "## Mixtures of experts and hybrids"
OTHER_FORMS = "## The same step in other forms, whatever card holds it"
COMPILED = "## What is launched, compiled"
RANKS = (64, 7)  # one that is aligned and one that is not


class Outcome(NamedTuple):
    compiled: int
    refused: list[str]
    most_stack_bytes: int


def main() -> None:
    arguments = sys.argv[1:]
    compiles = arguments[:1] != ["--figures"]
    files = arguments[not compiles :]
    if len(files) > 1:
        sys.exit("usage: python -m benchmarks.gpu_trace [--figures] [FILE]")
    result = Path(files[0]) if files else RESULT
    figures = {name: figures_of(case) for name, case in (PLANNED | CASES | OTHERS).items()}
    lines = [*page(figures)]
    print(*lines, sep="\n", flush=True)
    if not compiles:
        _, compiled = RESULT.read_text().split(COMPILED)
        result.write_text("\n".join(lines) + "\n\n" + COMPILED + compiled)
        return
    launched = {}
    models = {name: Case(config=config) for name, config in MODELS.items()} | OTHERS
    for model, traced in models.items():
        for rank in RANKS:
            for options in MODES.values():
                case = replace(traced, options={**options, "rank": rank})
                trace = case.trace(case.depths[0])
                for specialization in trace.specializations:
                    kernel = trace.kernels[specialization.kernel]
                    launched[specialization] = (kernel, model)
    outcomes = {
        capability: compile_all(launched, capability, limit)
        for capability, limit in architectures().items()
    }
    lines += ["", *outcome_lines(len(launched), outcomes)]
    result.write_text("\n".join(lines) + "\n")
    print(result.read_text())
    if any(outcome.refused for outcome in outcomes.values()):
        sys.exit(1)


def compile_all(
    launched: dict[Specialization, tuple[object, str]], capability: int, limit: int
) -> Outcome:
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    refused = []
    stacks = [0]
    for specialization, (kernel, model) in launched.items():
        try:
            compiled = triton.compile(
                source_of(specialization, kernel),
                target=target,
                options=dict(specialization.options),
            )
        except Exception as error:  # whatever Triton or ptxas raises is an outcome
            reason = str(error).partition("\n")[0]
            refused.append(f"{specialization.kernel} of {model}: {reason}")
            continue
        if compiled.metadata.shared > limit:
            refused.append(f"{specialization.kernel} of {model}: {compiled.metadata.shared} bytes")
        stacks.append(registers_and_stack(compiled.asm["cubin"])[1])
    return Outcome(len(launched) - len(refused), refused, max(stacks))


def source_of(specialization: Specialization, kernel: object) -> object:
    """Return what Triton compiles at this launch."""
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, _) in enumerate(specialization.signature)
        if name in specialization.divisible
    }
    return triton.compiler.ASTSource(
        fn=kernel,
        signature=dict(specialization.signature),
        constexprs=dict(specialization.constants),
        attrs=aligned,
    )


def page(figures: dict[str, Figures]) -> Iterator[str]:
    yield "# A training step of the CUDA path, traced without a GPU"
    yield ""
    yield "Written by `python -m benchmarks.gpu_trace` (`make trace`) with torch"
    yield f"{torch.__version__.partition('+')[0]} and Triton {triton.__version__}. **No GPU ran**:"
    yield "launches and bytes are counted in a trace, peaks are live bytes there, kernels are"
    yield "compiled and not launched. Seconds are on paper: every operation at assumed rates,"
    yield "without gaps between launches and without attention's arithmetic."
    yield ""
    yield "## Plans of an empty card: Llama-7B, rank 64, 16 records of 528 tokens, A trained"
    yield ""
    yield from planned_lines(figures)
    yield ""
    yield BEYOND
    yield ""
    yield from placement_lines()
    yield ""
    yield MIXTURES
    yield ""
    yield from mixture_lines()
    yield ""
    yield "A mixture and a hybrid, traced: 16 records of real lengths, packed, in one pass. The"
    yield "products of all experts of a layer are a few launches. A delta net has no kernel: its"
    yield "chunks of 64 tokens follow one another."
    yield ""
    yield from figure_lines({name: figures[name] for name in OTHERS})
    yield ""
    yield OTHER_FORMS
    yield ""
    yield from figure_lines({name: figures[name] for name in CASES})
    yield ""
    yield "GB = 1e9 bytes. Traffic: what everything but GEMMs reads and writes; GEMMs: theirs."
    yield 'Planned: `falqon_core.estimate.memory`. "no": an empty card does not hold it. Two and'
    yield "three layers are traced, and what the third adds is added for each of the other 29."
    yield ""
    yield "Rates assumed (FP8 and bf16 TFLOP/s from 4096 rows on, TB/s):"
    yield (
        "; ".join(
            f"{card} {rate.fp8 / 1e12:.0f}, {rate.bf16 / 1e12:.0f}, {rate.memory / 1e12:.2f}"
            for card, rate in CARDS.items()
        )
        + "."
    )
    yield "Products of fewer rows have the share that torch's row-wise product of so many rows has"
    yield "on an RTX 5090, by [pytorch#155991](https://github.com/pytorch/pytorch/pull/155991)"
    shares = (f"{rows} rows {share_of_rows(rows):.0%}" for rows in (256, 528, 1024, 2112))
    yield f"({', '.join(shares)}). TB/s are {BANDWIDTH_SHARE:.0%} of the vendor's: quantizing"
    yield "kernels reach 80 % of 92 % on an H100, by"
    yield "[pytorch/ao#4054](https://github.com/pytorch/ao/issues/4054)."


def planned_lines(figures: dict[str, Figures]) -> Iterator[str]:
    yield (
        "| card | plan GB | base, activations | passes | launches | traffic GB | GEMMs GB | "
        "s on paper | with A frozen | packed, real lengths | tuned FP8 LoRA | tuned bf16 LoRA |"
    )
    yield "|---|---:|---|" + "---:|" * 9
    for card, rates in CARDS.items():
        step, frozen, packed = (figures[f"{card}{end}"] for end in ("", ", A frozen", ", packed"))
        recipe = planned_recipe(card)
        seconds = step.seconds[card]
        activations = "recomputed" if recipe.activation_checkpointing else "kept"
        row = [
            f"{card}, {FREE_GIB[card]} GiB free",
            f"{step.estimated_bytes / 1e9:.1f}",
            f"{recipe.base_copy}, {activations}",
            f"{step.passes}",
            f"{step.launches}",
            f"{step.other_bytes / 1e9:.0f}",
            f"{step.gemm_bytes / 1e9:.0f}",
            f"{seconds:.2f}",
            f"{frozen.seconds[card]:.2f} ({seconds / frozen.seconds[card] - 1:+.1%})",
            f"{packed.seconds[card]:.2f}",
        ]
        for method in ("fp8_lora", "lora"):
            peer = planned_recipe(card, method=method, a_init=None)
            of_peer = step_seconds(dimensions_of(llama_7b()), peer, rates)
            again = ", recomputed" if peer.activation_checkpointing else ""
            passes = num_passes(peer)
            row.append(f"{of_peer:.2f} ({passes} pass{'' if passes == 1 else 'es'}{again})")
        yield f"| {' | '.join(row)} |"
    yield ""
    yield "What the planner gives (`plan_memory`), traced. The two on the right are arithmetic on"
    yield "the same rates (`falqon_core.estimate.step_seconds`), in the memory that"
    yield "`falqon_core.estimate.memory` plans for them: all that is fused here is fused there,"
    yield "weights are rounded to FP8 once and kept in both layouts, 2 bytes each as in bf16."
    yield "Gate and up are kept in bf16 there."


def outcome_lines(num_launched: int, outcomes: dict[int, Outcome]) -> Iterator[str]:
    yield COMPILED
    yield ""
    yield f"{', '.join([*MODELS, *OTHERS])}; ranks {' and '.join(map(str, RANKS))}; update modes"
    yield f"{', '.join(MODES)}: {num_launched} different compilations of Triton kernels, with the"
    yield "types, constants and alignments of the traced launches."
    yield ""
    yield "| architecture | compile | refused | most stack of a thread, bytes |"
    yield "|---|---:|---:|---:|"
    for capability, outcome in outcomes.items():
        row = (outcome.compiled, len(outcome.refused), outcome.most_stack_bytes)
        yield f"| sm_{capability} | {' | '.join(map(str, row))} |"
    for capability, outcome in outcomes.items():
        for refusal in outcome.refused:
            yield f"- sm_{capability}: {refusal}"


def figure_lines(figures: dict[str, Figures]) -> Iterator[str]:
    cards = " | ".join(f"{card}, s on paper" for card in CARDS)
    yield "| step | launches | traffic GB | GEMMs GB | TFLOP | waits | peak GB | planned GB | " + (
        f"{cards} |"
    )
    yield "|---|" + "---:|" * (7 + len(CARDS))
    for name, step in figures.items():
        gigabytes = [f"{number / 1e9:.1f}" for number in (step.other_bytes, step.gemm_bytes)]
        memory = [f"{number / 1e9:.1f}" for number in (step.peak_bytes, step.estimated_bytes)]
        seconds = [
            f"{number:.2f}" if step.estimated_bytes <= usable_on(card) else "no"
            for card, number in step.seconds.items()
        ]
        tera = f"{step.gemm_flops / 1e12:.0f}"
        row = [name, str(step.launches), *gigabytes, tera, str(step.waits), *memory, *seconds]
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
