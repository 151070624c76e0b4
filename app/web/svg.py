"""Pictures drawn on the server: small ones for tables, and charts for browsers without scripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from falqon_core.contract.inspection import Histogram

LEAST_HEIGHT = 2.0  # Height of the smallest bar above zero, of 100.

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """The lengths from `first` to `last`, and how many there are. `width`: in lengths; that of the
    few which are much longer is drawn as wide as the others.
    """

    first: int
    last: int
    num_sequences: int
    height: float  # Percent of the full height.
    width: int

    @property
    def is_rest(self) -> bool:
        return self.width < self.last - self.first + 1

    @property
    def end(self) -> int:
        """Return where it ends in the drawing."""
        return self.first + self.width

    def place(self, length: int) -> float:
        """Return where a length of this bar, or the one behind it, lies in the drawing."""
        return self.first + self.width * (length - self.first) / (self.last - self.first + 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """A box that curves share, the lowest value of all at its bottom."""

    left: float
    low: float
    x_scale: float
    y_scale: float
    width: float
    height: float

    @classmethod
    def around(cls, points: Sequence[Point], width: float, height: float) -> Self:
        xs = [x for x, _ in points]
        ys = [y for _, y in points]
        left = min(xs)
        low = min(ys)
        x_scale = width / ((max(xs) - left) or 1)
        y_scale = height / ((max(ys) - low) or 1)
        return cls(left, low, x_scale, y_scale, width, height)

    def place(self, point: Point) -> Point:
        x = (point[0] - self.left) * self.x_scale
        return x, self.height - (point[1] - self.low) * self.y_scale

    def polyline(self, points: Sequence[Point]) -> str:
        """Return the `points` of an SVG polyline; a single point becomes a level line."""
        vertices = [self.place(point) for point in points]
        if len(vertices) == 1:
            level = vertices[0][1]
            vertices = [(0.0, level), (self.width, level)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in vertices)


def polyline(points: Sequence[Point], width: float, height: float) -> str:
    """Return the `points` of an SVG polyline that fills the box; none for no points."""
    if not points:
        return ""
    return Frame.around(points, width, height).polyline(points)


def bars(histogram: Histogram) -> list[Bar]:
    """Return a bar for each bin that a whole length can be in. In older ones the edges are any
    numbers, of which the last belongs to its bin.
    """
    highest = max(histogram.counts)
    drawn: list[Bar] = []
    for start, end, count in zip(
        histogram.edges, histogram.edges[1:], histogram.counts, strict=False
    ):
        is_closed = end == histogram.edges[-1] and end.is_integer()
        first, last = math.ceil(start), int(end) if is_closed else math.ceil(end) - 1
        if first <= last:
            height = max(100 * count / highest, LEAST_HEIGHT) if count else 0.0
            width = last - first + 1
            if end == histogram.edges[-1] and drawn and width > drawn[0].width + 1:
                width = drawn[0].width
            drawn.append(Bar(first, last, count, height, width))
    return drawn
