import json
from pathlib import Path

from transformers import AutoTokenizer
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.train.data import load_data
from falqon_core.train.held_out import held_out_lines


def write(path: Path) -> Path:
    """Records whose answers differ in length; one line is blank, one record has no target left."""
    lines = [
        json.dumps({"prompt": f"{n}?", "completion": "word " * (n % 7 + n)}) for n in range(1, 30)
    ]
    lines.insert(3, "")
    lines.insert(9, json.dumps({"prompt": "long " * 300, "completion": "never"}))
    path.write_text("\n".join(lines))
    return path


def test_held_out_lines_are_those_that_training_holds_out(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl")
    recipe = Recipe(validation_fraction=0.3, seed=5, max_seq_length=128)
    config = TrainConfig(model=tiny_folder, train_file=path, recipe=recipe)
    data = load_data(config, AutoTokenizer.from_pretrained(tiny_folder), lambda _: None)
    assert data.validation is not None

    lines = held_out_lines(config)

    texts = path.read_text().split("\n")
    expected = [len(sequence) for sequence in data.validation.sequences]
    only = write_lines(tmp_path / "held_out.jsonl", [texts[line - 1] for line in lines])
    again = TrainConfig(model=tiny_folder, train_file=only, recipe=Recipe(max_seq_length=128))
    held_out = load_data(again, AutoTokenizer.from_pretrained(tiny_folder), lambda _: None).train
    assert [len(sequence) for sequence in held_out.sequences] == expected
    assert len(lines) == 9


def test_seeds_of_the_training_share_their_held_out_lines(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl")

    def lines(**recipe: int) -> list[int]:
        options = {"validation_fraction": 0.3, "max_seq_length": 128} | recipe
        config = TrainConfig(
            model=tiny_folder, train_file=path, recipe=Recipe.model_validate(options)
        )
        return held_out_lines(config)

    assert lines(seed=1) == lines(seed=2) != lines(validation_seed=1)


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_the_held_out_command_prints_the_held_out_lines(tiny_folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    recipe = Recipe(validation_fraction=0.1, max_seq_length=128)
    config = TrainConfig(model=tiny_folder, train_file=path, recipe=recipe)
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    done = CliRunner().invoke(app, ["held-out", "--config", str(file)])
    assert json.loads(done.stdout) == held_out_lines(config)
