"""The table of methods: what it says of several seeds, and how it is written."""

import csv
import io
from decimal import Decimal

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.comparison import (
    EMPTY_CELL,
    PAPER,
    ComparisonRow,
    TrainingFigures,
    combine,
    filled_columns,
    paper_figures,
    sort_rows,
    to_csv,
    to_markdown,
)


def seed(loss: float, memory: int = 2**30, cost: str = "0.5") -> TrainingFigures:
    return TrainingFigures(
        trained_parameters=1_234_567,
        learning_rate=2e-3,
        steps=60,
        valid_loss=loss,
        valid_loss_as_served=loss + 0.5,
        seconds_per_step=2.0,
        memory_bytes=memory,
        cost=Decimal(cost),
    )


def row_of(method: str, *losses: float) -> ComparisonRow:
    return combine(method, Recipe.model_validate({"method": method}), [seed(x) for x in losses])


def test_losses_of_seeds_are_means_with_their_deviation_and_memory_is_the_most() -> None:
    trainings = [seed(1.0, 2**30, "0.5"), seed(2.0, 2**31, "0.7"), seed(3.0, 2**30, "0.6")]
    row = combine("LoRA", Recipe(method="lora"), trainings)
    assert (row.num_jobs, row.valid_loss, row.valid_loss_deviation) == (3, 2.0, 1.0)
    assert (row.valid_loss_as_served, row.valid_loss_as_served_deviation) == (2.5, 1.0)
    assert (row.memory_bytes, row.cost, row.steps) == (2**31, Decimal("0.6"), 60)
    assert (row.paper_seconds_per_step, row.paper_mmlu) == (2.87, 0.3456)


def test_one_seed_has_no_deviation_and_no_job_no_figures() -> None:
    assert row_of("lora", 1.0).valid_loss_deviation is None
    empty = row_of("lora")
    assert (empty.num_jobs, empty.valid_loss, empty.paper_mmlu) == (0, None, 0.3456)


def test_every_method_has_the_papers_figures_beside_it() -> None:
    assert PAPER.keys() == METHOD_SPECS.keys()
    e3m2, e2m3 = (
        paper_figures(Recipe.model_validate({"method": "fp6_lora", "weight_format": name}))
        for name in ("e3m2", "e2m3")
    )
    assert e3m2 != e2m3
    assert paper_figures(Recipe(objective="dpo")) is None


def test_rows_without_a_value_come_last_in_either_direction() -> None:
    rows = [row_of("qlora"), row_of("lora", 2.0), row_of("falqon", 1.0)]
    for descending, names in ((False, "falqon lora qlora"), (True, "lora falqon qlora")):
        ordered = sort_rows(rows, "valid_loss", descending=descending)
        assert [row.name for row in ordered] == names.split()
    assert [row.name for row in sort_rows(rows, "method")] == ["falqon", "lora", "qlora"]


def test_markdown_is_one_table_with_its_notes() -> None:
    rows = [row_of("lora", 1.0, 2.0), row_of("qlora")]
    lines = to_markdown(rows).splitlines()
    widths = {line.count(" | ") for line in lines[:4]}
    assert widths == {len(filled_columns(rows))}
    assert "1.5000 ± 0.7071" in lines[2]
    assert "1,234,567" in lines[2]
    assert lines[3].startswith(f"| qlora | 0 | {EMPTY_CELL} |")
    assert lines[4] == ""
    assert all(line.startswith("- ") for line in lines[5:])


def test_a_name_cannot_break_the_markdown() -> None:
    row = combine("a|b\nc", Recipe(), [])
    assert to_markdown([row]).splitlines()[2].startswith("| a\\|b c | ")


def test_csv_has_every_field_as_a_number() -> None:
    (read,) = csv.DictReader(io.StringIO(to_csv([row_of("lora", 1.0)])))
    assert set(read) == set(ComparisonRow.model_fields)
    assert (read["method"], read["valid_loss"], read["cost"]) == ("lora", "1.0", "0.5")
    assert (read["tokens_per_second"], read["paper_mmlu"]) == ("", "0.3456")
