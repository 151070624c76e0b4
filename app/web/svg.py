"""Lines drawn on the server: for a glance in a table, and for charts where no script runs."""

from collections.abc import Sequence


def polyline(points: Sequence[tuple[float, float]], width: float, height: float) -> str:
    """Return the `points` of an SVG polyline that fills the box, the lowest value at its bottom; a
    single point becomes a level line.
    """
    if not points:
        return ""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    left = min(xs)
    low = min(ys)
    x_scale = width / ((max(xs) - left) or 1)
    y_scale = height / ((max(ys) - low) or 1)
    vertices = [
        (width if len(points) == 1 else (x - left) * x_scale, height - (y - low) * y_scale)
        for x, y in points
    ]
    if len(vertices) == 1:
        vertices.insert(0, (0.0, vertices[0][1]))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in vertices)
