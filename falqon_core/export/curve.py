"""The training curve of a model card: losses over steps as one SVG file.

It paints its own background, so it reads the same on light and dark pages, and holds shapes and
text only: no script, no style sheet, nothing that is fetched. Equal points give equal bytes. Of
more points than `MAX_CURVE_POINTS` an even choice is drawn.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
CurvePoint = tuple[int, float]  # A step and its loss.

CURVE_FILE = "training_curve.svg"
MAX_CURVE_POINTS = 300
WIDTH, HEIGHT = 720, 360
# The edges of the plot within the picture.
LEFT = 64
RIGHT = 680
TOP = 40
BOTTOM = 308
TRAIN_COLOUR, VALID_COLOUR, TEXT_COLOUR, GRID_COLOUR = "#2563eb", "#c2410c", "#374151", "#e5e7eb"


def draw_curve(train: Sequence[CurvePoint], valid: Sequence[CurvePoint]) -> str:
    """`train` has a finite loss at least; values that are not finite are left out."""
    lines = [
        evenly([point for point in points if math.isfinite(point[1])], MAX_CURVE_POINTS)
        for points in (train, valid)
    ]
    points = [point for line in lines for point in line]
    steps = _axis([step for step, _ in points], smallest=1)
    losses = _axis([loss for _, loss in points])

    def x(step: float) -> float:
        return LEFT + (step - steps[0]) / (steps[-1] - steps[0]) * (RIGHT - LEFT)

    def y(loss: float) -> float:
        return BOTTOM - (loss - losses[0]) / (losses[-1] - losses[0]) * (BOTTOM - TOP)

    parts = [
        *(
            _line(f"M{LEFT} {y(tick):.1f}H{RIGHT}", GRID_COLOUR, 1)
            + _text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end")
            for tick in losses
        ),
        *(
            _line(f"M{x(tick):.1f} {BOTTOM}v5", TEXT_COLOUR, 1)
            + _text(x(tick), BOTTOM + 20, f"{tick:,.0f}", "middle")
            for tick in steps
        ),
        _line(f"M{LEFT} {BOTTOM}H{RIGHT}", TEXT_COLOUR, 1),
        _text((LEFT + RIGHT) / 2, HEIGHT - 10, "step", "middle"),
        f'<g transform="rotate(-90 16 {(TOP + BOTTOM) / 2:g})">'
        f"{_text(16, (TOP + BOTTOM) / 2, 'loss', 'middle')}</g>",
    ]
    for index, (name, colour, line) in enumerate(
        (("training", TRAIN_COLOUR, lines[0]), ("validation", VALID_COLOUR, lines[1]))
    ):
        if line:
            vertices = [(x(step), y(loss)) for step, loss in line]
            parts.append(
                _line("M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in vertices), colour, 2)
            )
            if name == "validation" or len(vertices) == 1:
                parts += [
                    f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}"/>'
                    for left, top in vertices
                ]
            at = LEFT + 120 * index
            parts.append(_line(f"M{at} 20h24", colour, 2) + _text(at + 30, 24, name, "start"))
    content = "\n".join(parts)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>Loss over the steps of the training</title>
<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>
{content}
</svg>
"""


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of them at even distances, first and last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _axis(values: Sequence[float], smallest: float = 0) -> list[float]:
    """Return a few round numbers, `smallest` or more apart from each other; all values lie between
    the first and the last.
    """
    low = min(values)
    high = max(values)
    # Closer numbers would have the same label, or be equal after rounding.
    closest = max(smallest, 1e-5 * max(abs(low), abs(high)), 1e-9)
    apart = max((high - low or abs(high) or 1) / 5, closest)
    unit = 10 ** math.floor(math.log10(apart))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= apart)
    first = math.floor(low / step)
    last = math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _line(path: str, colour: str, width: int) -> str:
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        'stroke-linejoin="round"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-family="sans-serif" '
        f'font-size="13" fill="{TEXT_COLOUR}">{text}</text>'
    )
