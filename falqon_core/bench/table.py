"""The measurements as Markdown: rates, shares of the ceilings and of the bound, and the peers that
are missing.

All arithmetic from seconds to figures is here. No figure is without its unit
in the head of the column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from falqon_core.bench.ceilings import Ceilings
from falqon_core.bench.kernels import KernelResult, Shapes
from falqon_core.bench.steps import MEASURED, OUR_SYSTEM, StepTimings

GIB = 2**30


@dataclass(frozen=True)
class Report:
    """`model`: what the steps trained, in words; `gemms`: the FP8 GEMM that the probe chose for
    output and for grad_input.
    """

    ceilings: Ceilings
    gemms: dict[str, str]
    shapes: Shapes
    kernels: list[KernelResult]
    model: str
    steps: list[StepTimings]
    seconds: float


def markdown(report: Report) -> str:
    """Return the whole report as Markdown."""
    return "\n".join([*_head(report), "", *_kernels(report), "", *_steps(report)]) + "\n"


def bound_seconds(result: StepTimings, ceilings: Ceilings) -> float:
    """Return the seconds of a step whose operations all ran at the measured FP8 ceiling (bf16 where
    there is no FP8); method-products.md.
    """
    return result.bound_flops / ceilings.best_flops


def _head(report: Report) -> Sequence[str]:
    c = report.ceilings
    fp8 = (
        f"{c.fp8_flops / 1e12:.0f} TFLOP/s"
        if c.fp8_flops
        else f"none ({c.fp8_missing}); shares are of bf16"
    )
    memory = f", {c.memory_bytes / GIB:.0f} GiB" if c.memory_bytes else ""
    return (
        f"# {c.device}{f' ({c.capability}{memory})' if c.capability else ''}",
        "",
        f"torch {c.torch}; measured in {report.seconds:.0f} s by `python -m falqon_core bench`.",
        f"Ceilings through torch: copy {c.copy_bytes_per_second / 1e9:.0f} GB/s, "
        f"bf16 GEMM {c.bf16_flops / 1e12:.0f} TFLOP/s, FP8 GEMM {fp8}.",
        "FP8 GEMM in use: "
        + ", ".join(f"{name} {gemm}" for name, gemm in report.gemms.items())
        + ".",
    )


def _kernels(report: Report) -> Iterable[str]:
    yield "## Kernels"
    yield ""
    s = report.shapes
    yield (
        f"T = {s.tokens} tokens, H = {s.hidden}, I = {s.intermediate}, r = {s.rank}, "
        f"k = {s.update_rows}."
    )
    yield (
        "Rates are of the bytes that must move, read and written once, or of a product's "
        "operations."
    )
    yield "SQNR is against the operator's oracle on the same device."
    yield ""
    rows = [_kernel_row(result, report.ceilings) for result in report.kernels]
    yield from _table(
        ("kernel", "shape", "µs", "GB/s", "% of copy", "TFLOP/s", "% of FP8", "SQNR, dB"), rows
    )


def _kernel_row(result: KernelResult, ceilings: Ceilings) -> Sequence[str]:
    if result.status != MEASURED:
        return result.name, result.shape, result.status
    noise = "exact" if result.sqnr_db is None else f"{result.sqnr_db:.0f}"
    rate = (result.flops or result.moved) / result.seconds
    figures = (f"{rate / 1e9:.0f}", _percent(rate, ceilings.copy_bytes_per_second), "", "")
    if result.flops:
        figures = ("", "", f"{rate / 1e12:.0f}", _percent(rate, ceilings.best_flops))
    return (result.name, result.shape, f"{result.seconds * 1e6:.1f}", *figures, noise)


def _steps(report: Report) -> Iterable[str]:
    yield "## Seconds of an optimizer step"
    yield ""
    yield (
        f"{report.model}. Systems in turn, round after round; medians over all timed steps. "
        "'vs ours': seconds over ours."
    )
    yield (
        "The bound is the operations of our method without recomputation at the FP8 ceiling, "
        "the same for all systems."
    )
    for workload in dict.fromkeys(result.workload for result in report.steps):
        results = [result for result in report.steps if result.workload == workload]
        bound = bound_seconds(results[0], report.ceilings)
        ours = next(
            (
                result.median_seconds
                for result in results
                if result.system == OUR_SYSTEM.name and result.status == MEASURED
            ),
            None,
        )
        yield ""
        num_tokens = results[0].num_tokens
        yield f"### {workload}: {num_tokens} real tokens a step, bound {_seconds(bound)} s"
        yield ""
        head = (
            "system",
            "s/step",
            "vs ours",
            "tokens/s",
            "% of bound",
            "peak GiB",
            "microbatch",
            "recompute",
            "steps, rounds",
        )
        yield from _table(head, [_step_row(result, bound, ours) for result in results])


def _step_row(result: StepTimings, bound: float, ours: float | None) -> Sequence[str]:
    name = result.system + (f", base copy {result.base_copy}" if result.base_copy else "")
    if result.status != MEASURED:
        return name, result.status
    seconds = result.median_seconds
    ratio = f"{seconds / ours:.2f}" if ours else ""
    peak = f"{result.peak_bytes / GIB:.1f}" if result.peak_bytes else ""
    return (
        name,
        _seconds(seconds),
        ratio,
        f"{result.num_tokens / seconds:.0f}",
        _percent(bound, seconds),
        peak,
        str(result.microbatch_tokens),
        "yes" if result.checkpointing else "no",
        f"{len(result.seconds)}, {result.rounds}",
    )


def _seconds(seconds: float) -> str:
    """Write three significant digits."""
    return f"{seconds:.3g}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Write the rows; a short one says why in its last cell, and the cells beyond stay empty."""
    yield _line(head)
    yield "|" + "---|" * len(head)
    for row in rows:
        yield _line([*row, *[""] * (len(head) - len(row))])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
