"""Costs of the pieces of `benchmarks/scale.py` at some numbers of jobs, kept by number so that a
run can go on where another has ended, and the table of them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.plans import StatementCost


@dataclass(frozen=True, slots=True)
class PieceCost:
    """Sums over the different statements of a piece, and its slowest one."""

    num_statements: int
    milliseconds: float
    pages: int
    slowest_ms: float
    reads: str  # of the slowest
    reason: str  # why one may take longer than the limit

    @classmethod
    def of(cls, costs: Sequence[StatementCost], reason: str) -> "PieceCost":
        slowest = max(costs, key=lambda cost: cost.milliseconds, default=None)
        return cls(
            len(costs),
            sum(cost.milliseconds for cost in costs),
            sum(cost.num_buffers for cost in costs),
            slowest.milliseconds if slowest else 0.0,
            slowest.reads if slowest else "",
            reason,
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one number of jobs; `machine`: with its load before the run, and the time."""

    jobs: int
    num_bytes: int
    machine: str
    pieces: Mapping[str, PieceCost]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Figures":
        values = json.loads(path.read_text())
        pieces = {name: PieceCost(**cost) for name, cost in values.pop("pieces").items()}
        return cls(**values, pieces=pieces)


def table(figures: Sequence[Figures], limit_ms: float) -> Iterator[str]:
    """Yield the lines of the table: a column for each number of jobs, in their order."""
    for each in figures:
        size = f"{each.num_bytes / 1e9:.1f} GB, {each.num_bytes / each.jobs / 1e3:.1f} KB a job"
        yield f"{each.jobs:,} jobs that have ended: {size}. {each.machine}."
    sizes = " / ".join(_short(each.jobs) for each in figures)
    yield ""
    yield f"| piece | statements | ms {sizes} | pages {sizes} | exponent | slowest reads |"
    yield "|---|---:|---:|---:|---:|---|"
    first, last = figures[0], figures[-1]
    for name, cost in last.pieces.items():
        costs = [each.pieces[name] for each in figures]
        is_slow = any(each.slowest_ms > limit_ms for each in costs)
        note = f": {cost.reason or 'NO REASON'}" if is_slow else ""
        milliseconds = " / ".join(f"{each.milliseconds:.1f}" for each in costs)
        pages = " / ".join(f"{each.pages:,}" for each in costs)
        exponent = _exponent(first, last, name)
        yield (
            f"| {name}{note} | {cost.num_statements} | {milliseconds} | {pages} | {exponent} "
            f"| {cost.reads} |"
        )


def _exponent(first: Figures, last: Figures, name: str) -> str:
    """Return the power of the number of jobs by which the pages of a piece grow."""
    before, after = first.pieces[name].pages, last.pieces[name].pages
    if first.jobs == last.jobs or not before or not after:
        return ""
    return f"{math.log(after / before) / math.log(last.jobs / first.jobs):.2f}"


def _short(number: int) -> str:
    return f"{number // 10**6} M" if number >= 10**6 else f"{number // 1_000} k"
