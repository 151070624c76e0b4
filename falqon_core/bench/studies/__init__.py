"""The other results of the paper, on the machine at hand: `python -m falqon_core bench --study`.

  overhead.py   when FP8 pays: products of a linear and of its adapter, with and without quantizing
  breakdown.py  where the time of a step goes, for each system
  costs.py      days and dollars of the paper's training, from seconds a step and the price table
  plot.py       each as a picture

On a GPU the sizes are those of Llama-7B, on a CPU small ones: a CPU can show the shapes of the
answers; its seconds say nothing about a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

StudyName = Literal["overhead", "breakdown", "costs"]


@dataclass(frozen=True)
class Bars:
    """A picture: for each group of `labels` one bar a series."""

    title: str
    unit: str
    labels: Sequence[str]
    series: dict[str, Sequence[float]]


@dataclass(frozen=True)
class StudyReport:
    """`markdown`: the whole text, its table included."""

    markdown: str
    bars: Bars


Tell = Callable[[str], None]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
