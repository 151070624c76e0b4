from pathlib import Path

import pytest
import torch

from falqon_core.bench.studies.breakdown import COLUMNS, measure_breakdown, part_of
from falqon_core.bench.studies.costs import study_costs
from falqon_core.bench.studies.overhead import Sizes, study_overhead
from falqon_core.bench.studies.plot import draw_bars
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
    sizes = Sizes(tokens=32, linears=((32, 48),), ranks=(16,), seconds=0.0)
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
    assert set(breakdown.parts) <= set(COLUMNS)
    assert breakdown.parts["products"] > 0
    assert breakdown.parts["after the step"] >= 0


def test_operators_are_sorted_by_their_names() -> None:
    assert [
        part_of(name)
        for name in ("aten::mm", "bitsandbytes::dequantize_4bit", "aten::add_", "aten::_softmax")
    ] == ["products", "quantizing", "elementwise and copies", "attention"]
