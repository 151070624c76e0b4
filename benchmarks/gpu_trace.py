"""What a training step does on a GPU, as far as a machine without one can say.

Steps are traced (`tests/falqon_core/trace`): launches, bytes, peak; and every Triton kernel that
they launch is compiled, as launched, for every architecture we claim. Writes the file that is
named, `benchmarks/results/gpu_trace.md` by default, and ends with 1 when a kernel does not compile
or takes more shared memory than a block may have. Nothing runs on a GPU.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from falqon_core.ops.compile import architectures, registers_and_stack
from falqon_core.ops.kernels import triton
from tests.falqon_core.trace.cases import CASES, FEWER, MODELS, MODES, Case
from tests.falqon_core.trace.figures import CARDS, Figures, figures_of
from tests.falqon_core.trace.launches import Specialization

RESULT = Path("benchmarks/results/gpu_trace.md")
RANKS = (64, 7)  # one that is aligned and one that is not


class Outcome(NamedTuple):
    compiled: int
    refused: list[str]
    most_stack_bytes: int


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit("usage: python -m benchmarks.gpu_trace [FILE]")
    result = Path(sys.argv[1]) if len(sys.argv) == 2 else RESULT
    figures = {name: figures_of(case) for name, case in CASES.items()}
    print(*figure_lines(figures), sep="\n", flush=True)
    launched = {}
    for model, config in MODELS.items():
        for rank in RANKS:
            for options in MODES.values():
                case = Case(config=config, options={**options, "rank": rank})
                trace = case.trace(FEWER)
                for specialization in trace.specializations:
                    kernel = trace.kernels[specialization.kernel]
                    launched[specialization] = (kernel, model)
    outcomes = {
        capability: compile_all(launched, capability, limit)
        for capability, limit in architectures().items()
    }
    result.write_text("\n".join(page(figures, len(launched), outcomes)) + "\n")
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


def page(
    figures: dict[str, Figures], num_launched: int, outcomes: dict[int, Outcome]
) -> Iterator[str]:
    yield "# A training step of the CUDA path, traced without a GPU"
    yield ""
    yield "Written by `python -m benchmarks.gpu_trace` (`make trace`) with torch"
    yield f"{torch.__version__.partition('+')[0]} and Triton {triton.__version__}. **No GPU ran**:"
    yield "launches and bytes are counted in a trace, peaks are live bytes there, kernels are"
    yield "compiled and not launched. Seconds are on paper: every operation at assumed rates,"
    yield "without gaps between launches and without attention's arithmetic."
    yield ""
    yield "## Llama-7B, rank 64, 16 records of at most 528 tokens"
    yield ""
    yield from figure_lines(figures)
    yield ""
    yield "GB = 1e9 bytes. Traffic: what everything but GEMMs reads and writes; GEMMs: theirs."
    yield "Planned: `falqon_core.estimate.memory`. Two and three layers are traced, and what the"
    yield "third adds is added for each of the other 29. Assumed (FP8 and bf16 TFLOP/s, TB/s):"
    rates = (
        f"{card} {rate.fp8 / 1e12:.0f}, {rate.bf16 / 1e12:.0f}, {rate.memory / 1e12:.2f}"
        for card, rate in CARDS.items()
    )
    yield "; ".join(rates) + "."
    yield ""
    yield "## What is launched, compiled"
    yield ""
    yield f"{', '.join(MODELS)}; ranks {' and '.join(map(str, RANKS))}; update modes"
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
        seconds = [f"{number:.2f}" for number in step.seconds.values()]
        tera = f"{step.gemm_flops / 1e12:.0f}"
        row = [name, str(step.launches), *gigabytes, tera, str(step.waits), *memory, *seconds]
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
