import math
import xml.etree.ElementTree as ElementTree

import pytest

from falqon_core.export.curve import (
    BOTTOM,
    LEFT,
    MAX_CURVE_POINTS,
    RIGHT,
    TOP,
    CurvePoint,
    draw_curve,
    evenly,
)

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"svg", "title", "rect", "path", "circle", "text", "g"}


def lines_of(svg: str) -> list[list[tuple[float, float]]]:
    """The lines that are drawn in the plot, training before validation."""
    paths = [path.attrib["d"] for path in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    drawn = [path for path in paths if "H" not in path and "h" not in path and "v" not in path]
    return [
        [(float(x), float(y)) for x, y in (pair.split() for pair in path[1:].split("L"))]
        for path in drawn
    ]


def test_losses_are_drawn_at_their_coordinates() -> None:
    svg = draw_curve([(1, 3.0), (2, 2.0), (5, 1.0)], [(5, 1.5)])

    train, valid = lines_of(svg)
    assert [x for x, _ in train] == sorted(x for x, _ in train)
    assert train[0][1] < train[1][1] < train[2][1], "a lower loss stands lower"
    assert valid == [(train[2][0], (train[1][1] + train[2][1]) / 2)]
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in train + valid)
    labels = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"step", "loss", "training", "validation", "1", "5", "1.5", "3"} <= set(labels)


def test_a_curve_holds_shapes_and_text_and_no_script_or_link() -> None:
    root = ElementTree.fromstring(draw_curve([(1, 3.0), (2, 2.0)], [(2, 2.5)]))

    assert {element.tag.removeprefix(SVG) for element in root.iter()} == SHAPES
    names = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in names if name.startswith("on") or name in ("href", "style", "src")}
    background = root.find(f"{SVG}rect")
    assert background is not None
    assert (background.attrib["width"], background.attrib["fill"]) == (
        root.attrib["width"],
        "#ffffff",
    )


def test_a_long_curve_draws_the_same_selection_each_time() -> None:
    many = [(step, 1 / step) for step in range(1, 100_001)]

    svg = draw_curve(many, many[::2])

    assert [len(line) for line in lines_of(svg)] == [MAX_CURVE_POINTS, MAX_CURVE_POINTS]
    assert len(svg) < 50_000
    assert svg == draw_curve(list(many), many[::2])


@pytest.mark.parametrize(
    "train",
    [
        [(7, 2.0)],
        [(1, 0.0), (2, 0.0)],
        [(1, math.nan), (2, 1e-9), (3, 1e9)],
        [(5, -0.25), (10**7, -0.26)],
    ],
)
def test_every_training_has_a_curve(train: list[CurvePoint]) -> None:
    (line,) = lines_of(draw_curve(train, []))

    assert len(line) == sum(math.isfinite(loss) for _, loss in train)
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in line)


def test_an_even_choice_has_both_ends() -> None:
    assert evenly(range(11), 3) == [0, 5, 10]
    assert evenly(range(3), 3) == [0, 1, 2]


@pytest.mark.parametrize(
    "losses", [(0.0, 1e-13), (2.0, math.nextafter(2.0, 3.0)), (3e6, 3e6 + 0.25)]
)
def test_losses_that_hardly_differ_are_drawn(losses: tuple[float, float]) -> None:
    svg = draw_curve(list(enumerate(losses, 1)), [])
    assert len(lines_of(svg)[0]) == 2
    texts = ElementTree.fromstring(svg).iter(f"{SVG}text")
    ticks = [text.text for text in texts if text.attrib["text-anchor"] == "end"]
    assert len(ticks) == len(set(ticks)) >= 2
