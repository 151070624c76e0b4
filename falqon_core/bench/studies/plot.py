"""A study as a picture, drawn by matplotlib, which the extra `bench` brings."""

from importlib.util import find_spec
from pathlib import Path

from falqon_core.bench.studies import Bars
from falqon_core.contract.errors import ConfigError


def require_matplotlib() -> None:
    """Raise `ConfigError` where it is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "plot: drawing needs matplotlib, which is not installed: pip install '.[bench]'",
            "plot",
        )


def draw_bars(bars: Bars, path: Path) -> None:
    """Write groups of horizontal bars as an SVG file; its folder is created."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "falqon"
    from matplotlib import pyplot

    height = 0.8 / len(bars.series)
    size = (9, 1.5 + 0.18 * len(bars.labels) * (1 + len(bars.series)))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    for index, (name, values) in enumerate(bars.series.items()):
        places = [place + index * height for place in range(len(bars.labels))]
        axes.barh(places, values, height, label=name)
    middle = 0.4 - height / 2
    axes.set_yticks([place + middle for place in range(len(bars.labels))], bars.labels)
    axes.invert_yaxis()
    axes.set_xlabel(bars.unit)
    axes.set_title(bars.title)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
