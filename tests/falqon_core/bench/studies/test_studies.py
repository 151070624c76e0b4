from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from falqon_core.bench.studies.breakdown import PART_NAMES, measure_breakdown, part_of
from falqon_core.bench.studies.costs import study_costs
from falqon_core.bench.studies.overhead import ProductSizes, study_overhead
from falqon_core.bench.studies.plot import draw_bars
from falqon_core.bench.studies.run import run_study
from falqon_core.cli import app
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.messages import ExitCode
from tests.falqon_core.bench.test_report import SETUP

CPU = torch.device("cpu")


def test_costs_tell_where_the_papers_days_and_dollars_part() -> None:
    study = study_costs()
    contradicted = [line for line in study.markdown.splitlines() if "(!) |" in line]
    assert [line.split(" |")[0] for line in contradicted] == [
        "| rtx-4090, FALQON",
        "| l40s, FALQON",
        "| h100, FALQON",
    ]
    # what its dollars say is what its measured seconds say
    assert "| 29.3 (!) | 1.80 |" in contradicted[0]


def test_overhead_measures_each_product_and_is_drawn(tmp_path: Path) -> None:
    sizes = ProductSizes(tokens=32, linears=((32, 48),), ranks=(16,), seconds=0.0)
    study = study_overhead(CPU, sizes, lambda _: None)
    labels = ["32 x 48: linear", "32 x 48: A, rank 16", "32 x 48: B, rank 16"]
    assert study.bars.labels == labels
    assert all(f"| {label} |" in study.markdown for label in labels)
    assert "| 32 x 48 |" in study.markdown
    draw_bars(study.bars, tmp_path / "overhead.svg")
    drawn = (tmp_path / "overhead.svg").read_text()
    assert drawn.startswith("<?xml")


@pytest.mark.parametrize("method", ["falqon", "lora"])
def test_a_steps_time_falls_into_parts(method: str) -> None:
    breakdown = measure_breakdown(method, CPU, SETUP)  # type: ignore[arg-type]
    assert set(breakdown.parts) <= set(PART_NAMES)
    assert breakdown.parts["products"] > 0
    assert breakdown.parts["after the step"] >= 0


def test_operators_are_sorted_by_their_names() -> None:
    assert [
        part_of(name)
        for name in ("aten::mm", "bitsandbytes::dequantize_4bit", "aten::add_", "aten::_softmax")
    ] == ["products", "quantizing", "elementwise and copies", "attention"]


def test_a_study_creates_the_folder_of_its_picture(tmp_path: Path) -> None:
    run_study("costs", tmp_path / "new" / "costs.svg", print)
    assert (tmp_path / "new" / "costs.svg").read_text().startswith("<?xml")


def test_nothing_is_measured_that_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study takes minutes."""
    monkeypatch.setattr("falqon_core.bench.studies.plot.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs matplotlib"):
        run_study("breakdown", tmp_path / "study.svg", pytest.fail)


@pytest.mark.parametrize("arguments", [["--json"], ["--study", "breakdown", "--plot"]])
def test_nothing_is_measured_that_cannot_be_written(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["bench", *arguments, str(tmp_path / "file" / "result")])
    assert result.exit_code == ExitCode.USER_ERROR
    assert f"{tmp_path / 'file'} is no folder" in result.stderr
