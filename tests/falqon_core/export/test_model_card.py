from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from falqon_core.contract.config import ObjectiveName, Recipe
from falqon_core.data.summary import DataSummary
from falqon_core.export.model_card import MAX_TABLE_ROWS, TrainingRow, thin_rows, write_model_card
from falqon_core.export.provenance import CardFields

SUMMARY = DataSummary(longest=64, num_truncated=3, num_left_out=2, num_validation_records=120)
FIELDS: CardFields = {
    "base_model": "acme/small-1b",
    "license": "other",
    "license_name": "acme-1",
    "license_link": "LICENSE",
}
ROWS = [TrainingRow(1, 2.5, None, 1e-3), TrainingRow(2, 1.25, 1.5, 5e-4)]


def write(
    folder: Path,
    fields: CardFields = FIELDS,
    objective: ObjectiveName = "supervised",
    rows: list[TrainingRow] = ROWS,
    data: DataSummary | None = SUMMARY,
    **options: Any,
) -> ModelCard:
    write_model_card(
        folder, base_model="small", fields=fields, recipe=Recipe(rank=8,
        objective=objective, **options).resolved(100), rows=rows, num_records=1234,
        tokens_per_epoch=24680, trained_tokens=56789, data=data, device="cpu",
    )  # fmt: skip
    return ModelCard.load(folder / "README.md")


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = write(tmp_path).data

    assert (data.base_model, data.library_name, data.pipeline_tag) == (
        "acme/small-1b",
        "transformers",
        "text-generation",
    )
    assert (data.license, data.license_name, data.license_link) == ("other", "acme-1", "LICENSE")
    assert data.tags == ["fp8", "falqon"]


def test_the_card_omits_unknown_figures(tmp_path: Path) -> None:
    assert write(tmp_path, fields={}).data.license is None
    front_matter = (tmp_path / "README.md").read_text().split("---")[1]
    assert "license" not in front_matter
    assert "base_model" not in front_matter


def test_the_variables_of_the_chat_template_are_told(tmp_path: Path) -> None:
    card = write(tmp_path, chat_template_kwargs={"enable_thinking": False, "mode": "a|b\n"}).text

    assert "template has `enable_thinking`, `mode` as in training by default" in card
    assert '| chat_template_kwargs | {"enable_thinking": false, "mode": "a\\|b\\n"} |' in card
    assert "chat template" not in write(tmp_path).text


def test_a_licence_cannot_break_the_front_matter(tmp_path: Path) -> None:
    name = "odd: 'name' # \n---\nlicense: mit"

    data = write(tmp_path, fields=FIELDS | {"license_name": name}).data

    assert (data.license_name, data.license) == (name, "other")


def test_the_card_shows_the_training_curve(tmp_path: Path) -> None:
    assert "](training_curve.svg)" in write(tmp_path).text
    assert ">validation</text>" in (tmp_path / "training_curve.svg").read_text()


def test_the_card_describes_the_data(tmp_path: Path) -> None:
    text = write(tmp_path).text

    assert "| their tokens | 24,680, 20.0 a record on average |" in text
    assert "| records cut at 2,048 tokens | 3 |" in text
    assert "| records left out, bad or with nothing to learn | 2 |" in text
    assert "| validation records | 120 |" in text
    assert "validation records" not in write(tmp_path, data=None).text


def test_the_limits_on_the_card_follow_from_the_measurements(tmp_path: Path) -> None:
    assert "There is no validation loss" not in write(tmp_path).text
    assert "There is no validation loss" in write(tmp_path, rows=ROWS[:1]).text


def test_the_card_describes_training_recipe_and_use(tmp_path: Path) -> None:
    text = write(tmp_path).text

    assert "| 2 | 1.2500 | 1.5000 | 0.0005 |" in text
    assert "| 1 | 2.5000 |  | 0.001 |" in text
    assert "| rank | 8 |" in text
    assert "1,234 records, 56,789 trained tokens, on cpu" in text
    assert "vllm serve" in text
    assert "from_pretrained" in text


def test_the_card_names_the_method(tmp_path: Path) -> None:
    assert "Supervised fine-tuning: 1,234 records" in write(tmp_path).text

    card = write(tmp_path, objective="dpo")

    assert "Direct preference optimization (DPO) against the base model: 1,234 records" in card.text
    assert "| beta | 0.1 |" in card.text
    assert card.data.tags == ["fp8", "falqon", "dpo"]


def test_long_tables_are_thinned_but_keep_validations() -> None:
    rows = [
        TrainingRow(step, 1.0, 1.0 if step % 100 == 50 else None, 1e-3) for step in range(1, 1001)
    ]

    table = thin_rows(rows)

    assert table[0] == rows[0]
    assert table[-1] == rows[-1]
    assert [row for row in table if row.valid_loss is not None] == [
        row for row in rows if row.valid_loss is not None
    ]
    assert len(table) <= MAX_TABLE_ROWS + 10
    every = [replace(row, valid_loss=1.0) for row in rows]
    assert len(thin_rows(every)) == MAX_TABLE_ROWS
