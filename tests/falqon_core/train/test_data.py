import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import DatasetError
from falqon_core.train.data import load_data

RECORD = {
    "messages": [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "Seven lamps."},
    ]
}


def write(path: Path, num_good: int, num_bad: int) -> Path:
    path.write_text((json.dumps(RECORD) + "\n") * num_good + "{oops\n" * num_bad)
    return path


def test_bad_records_within_the_tolerance_are_left_out_and_told(
    tiny_folder: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        model=tiny_folder,
        train_file=write(tmp_path / "train.jsonl", 38, 2),
        validation_file=write(tmp_path / "valid.jsonl", 20, 0),
        recipe=Recipe(max_bad_record_fraction=0.05),
    )
    lines: list[str] = []

    train, validation = load_data(config, AutoTokenizer.from_pretrained(tiny_folder), lines.append)

    assert validation is not None
    assert (len(train.sequences), len(validation.sequences)) == (38, 20)
    assert lines == [
        "training_file: 2 bad records are left out; the first: line 39, column 2: not JSON: "
        "Expecting property name enclosed in double "
        "quotes; write one JSON object a line"
    ]


def test_too_many_bad_records_are_refused_with_the_file(tiny_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        model=tiny_folder,
        train_file=write(tmp_path / "train.jsonl", 40, 0),
        validation_file=write(tmp_path / "valid.jsonl", 18, 2),
        recipe=Recipe(max_bad_record_fraction=0.05),
    )
    with pytest.raises(DatasetError, match=r"2 of 20 records are bad \(10.00%\)") as caught:
        load_data(config, AutoTokenizer.from_pretrained(tiny_folder), print)
    assert caught.value.param == "validation_file"


def test_a_tenth_is_held_out_unless_the_recipe_says_otherwise(
    tiny_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    path = write(tmp_path / "train.jsonl", 60, 0)
    recipes = {6: Recipe(), 0: Recipe(validation_fraction=0.0), 30: Recipe(validation_fraction=0.5)}
    for num_held_out, recipe in recipes.items():
        config = TrainConfig(model=tiny_folder, train_file=path, recipe=recipe)
        train, validation = load_data(config, tokenizer, print)
        assert len(train.sequences) == 60 - num_held_out
        assert (len(validation.sequences) if validation else 0) == num_held_out


def test_the_models_reading_of_records_is_logged_and_changes_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "price", "arguments": "{}"}}
    calling = {"messages": [RECORD["messages"][0], {"role": "assistant", "tool_calls": [call]}]}
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            json.dumps(record) + "\n"
            for record in (RECORD, calling, {"messages": RECORD["messages"], "tools": [{}]})
        )
    )
    lines: list[str] = []

    train, _ = load_data(
        TrainConfig(model=tiny_folder, train_file=path),
        AutoTokenizer.from_pretrained(tiny_folder),
        lines.append,
    )

    assert len(train.sequences) == 3
    assert [text.partition(" are left out")[0] for text in lines] == [
        "training_file: Tool calls of 1 record", "training_file: The tools of 1 record"
    ]  # fmt: skip
