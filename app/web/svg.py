"""Lines drawn on the server: for a glance in a table, and for charts where no script runs."""

from collections.abc import Sequence
from typing import NamedTuple, Self

Point = tuple[float, float]


class Frame(NamedTuple):
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
