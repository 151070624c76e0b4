from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from falqon_core.export.model_card import MAX_TABLE_ROWS, TrainingRow, license_of, thinned, write_model_card
from falqon_core.spec.config import MethodName, Recipe


def write(folder: Path, base_model: str = "acme/small-1b", license: str | None = "apache-2.0", method: MethodName = "falqon") -> ModelCard:
    rows = [TrainingRow(1, 2.5, None, 1e-3), TrainingRow(2, 1.25, 1.5, 5e-4)]
    write_model_card(
        folder, base_model=base_model, license=license, recipe=Recipe(rank=8, method=method).resolved(100), rows=rows, num_records=1234,
        num_tokens=56789, device="cpu",
    )  # fmt: skip
    return ModelCard.load(folder / "README.md")


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = write(tmp_path).data

    assert (data.base_model, data.license, data.library_name, data.pipeline_tag) == (
        "acme/small-1b", "apache-2.0", "transformers", "text-generation",
    )  # fmt: skip
    assert data.tags == ["fp8", "falqon"]


def test_an_unknown_licence_is_left_out(tmp_path: Path) -> None:
    assert write(tmp_path, license=None).data.license is None
    assert "license" not in (tmp_path / "README.md").read_text().split("---")[1]


def test_a_name_cannot_break_the_front_matter(tmp_path: Path) -> None:
    name = "odd: 'name' # \n---\nlicense: mit"

    data = write(tmp_path, base_model=name).data

    assert data.base_model == name
    assert data.license == "apache-2.0"


def test_it_tells_training_recipe_and_use(tmp_path: Path) -> None:
    text = write(tmp_path).text

    assert "| 2 | 1.2500 | 1.5000 | 5.00e-04 |" in text
    assert "| 1 | 2.5000 |  | 1.00e-03 |" in text
    assert "| rank | 8 |" in text
    assert "1,234 records, 56,789 trained tokens, on cpu" in text
    assert "vllm serve" in text
    assert "from_pretrained" in text


def test_it_names_the_method(tmp_path: Path) -> None:
    assert "Supervised fine-tuning: 1,234 records" in write(tmp_path).text

    card = write(tmp_path, method="dpo")

    assert "Direct preference optimization (DPO) against the base model: 1,234 records" in card.text
    assert "| beta | 0.1 |" in card.text
    assert card.data.tags == ["fp8", "falqon", "dpo"]


def test_long_tables_are_thinned_but_keep_every_validation() -> None:
    rows = [TrainingRow(step, 1.0, 1.0 if step % 100 == 50 else None, 1e-3) for step in range(1, 1001)]

    kept = thinned(rows)

    assert kept[0] == rows[0]
    assert kept[-1] == rows[-1]
    assert [row for row in kept if row.valid_loss is not None] == [row for row in rows if row.valid_loss is not None]
    assert len(kept) <= MAX_TABLE_ROWS + 10


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("---\nbase_model: a\nlicense: apache-2.0\n---\nText", "apache-2.0"),
        ("---\nbase_model: a\n---\nlicense: mit", None),
        ("no front matter\nlicense: mit", None),
        (None, None),
    ],
)
def test_the_licence_of_a_base_model(text: str | None, license: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)

    assert license_of(tmp_path) == license
