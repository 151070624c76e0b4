import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError, DatasetError
from falqon_core.train import compare
from falqon_core.train.choices import measure_accuracy, read_questions
from falqon_core.train.compare import (
    ComparisonRun,
    parse_factors,
    parse_methods,
    recipe_of,
    train_once,
)
from falqon_core.train.model import load_base_model, load_tokenizer
from tests.falqon_core.train.processes import run_as_fork
from tests.falqon_core.train.trainings import config_of


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_methods_are_trained_once_and_stand_in_one_table(
    tiny_folder: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "subprocess", SimpleNamespace(run=run_as_fork, DEVNULL=None))
    recipe = {
        "rank": 4,
        "max_seq_length": 64,
        "batch_size": 8,
        "max_steps": 2,
        "validation_fraction": 0.2,
        "a_init": "orthonormal",
    }
    config = {
        "model": str(tiny_folder),
        "train_file": str(train_file),
        "num_threads": 1,
        "certificate": False,
        "recipe": recipe,
    }
    (tmp_path / "base.json").write_text(json.dumps(config))
    arguments = ("--config", tmp_path / "base.json", "--output", tmp_path / "out")
    arguments += ("--methods", "falqon,lora")
    code, table, errors = run(*arguments)
    assert code == 0, errors
    rows = {line.split(" | ")[0]: line.split(" | ") for line in table.splitlines()}
    head = rows["| Method"]
    ours, lora = rows["| FALQON"], rows["| LoRA"]
    losses = head.index("Validation loss"), head.index("FP8 weights")
    assert ours[losses[0]] == ours[losses[1]], "what is trained is what is merged"
    served = head.index("FP8 weights and activations")
    assert ours[served] != ours[losses[0]]
    assert lora[served] != lora[losses[1]]
    error = head.index("Base error")
    assert (float(lora[error]), 0.01 < float(ours[error]) < 0.05) == (0.0, True)
    assert float(ours[head.index("Tokens/s, in turn")].replace(",", "")) > 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert run(*arguments) == (0, table, ""), "nothing is trained again"


def test_a_folder_holds_trainings_of_one_configuration(
    tiny_folder: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that failed before it began is none yet."""
    monkeypatch.setattr(compare, "subprocess", SimpleNamespace(run=run_as_fork, DEVNULL=None))
    recipe = {"rank": 4, "max_seq_length": 64, "max_steps": 1, "num_samples": 0}
    config = config_of(tiny_folder, train_file, recipe)
    folder, told = tmp_path / "out", list[str]()
    with pytest.raises(ConfigError, match=r"out: .*missing\.jsonl"):
        train_once(config.model_copy(update={"train_file": "/missing.jsonl"}), folder, told.append)
    messages = train_once(config, folder, told.append)
    assert train_once(config, folder, told.append) == messages
    other = config_of(tiny_folder, train_file, recipe | {"max_steps": 2})
    with pytest.raises(
        ConfigError, match="out holds a training of another configuration"
    ) as caught:
        train_once(other, folder, told.append)
    assert caught.value.param == "output"
    assert told == ["out", "out"]


def test_a_method_takes_the_options_that_it_has() -> None:
    base = Recipe.model_validate({"rank": 8, "a_init": "gradient", "max_steps": 5})
    lora = recipe_of(base, ComparisonRun("lora", 1e-3, 7))
    assert (lora.rank, lora.max_steps, lora.a_init, lora.seed) == (8, 5, None, 7)
    assert recipe_of(base, ComparisonRun("falqon", 1e-3, 7)).a_init == "gradient"


@pytest.mark.parametrize("text", ["", "1,x", "0", "-1", "inf", "nan"])
def test_factors_are_positive_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="rate_factors"):
        parse_factors(text)


def test_a_rate_that_no_recipe_may_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora-rate-2-seed-0: learning_rate") as caught:
        recipe_of(Recipe(), ComparisonRun("lora", 2.0, 0))
    assert caught.value.param == "learning_rate"


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    assert parse_methods("lora, qlora") == ["lora", "qlora"]
    with pytest.raises(ConfigError, match="no method 'magic'; there are falqon, lora"):
        parse_methods("lora,magic")


def test_questions_are_answered_by_the_likeliest_letter(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [{"input": f"Question {number}?\nAnswer:", "output": "B"} for number in range(9)]
    path.write_text("\n".join(map(json.dumps, rows)))
    questions = read_questions(path, limit=4)
    assert [question.text[:10] for question in questions] == [
        "Question 0",
        "Question 3",
        "Question 6",
    ]
    model, tokenizer = load_base_model(tiny_folder), load_tokenizer(tiny_folder)
    shares = [
        measure_accuracy(
            model, tokenizer, [question._replace(letter=letter) for question in questions]
        ).share
        for letter in "ABCD"
    ]
    assert sum(shares) == pytest.approx(1.0), "each question has one answer"


def test_a_question_may_hold_any_character(tmp_path: Path) -> None:
    """Among them those that Python takes for the end of a line; blank lines are none."""
    text = "One\u2028two\x85three?"
    rows = [{"input": text, "output": letter} for letter in "AB"]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "questions.jsonl").write_text("\r\n\n".join(lines) + "\n", encoding="utf-8")
    questions = read_questions(tmp_path / "questions.jsonl", 10)
    assert questions == [(text, "A"), (text, "B")]


@pytest.mark.parametrize(
    "line", [b"{}", b"no", b'{"input": "?", "output": "E"}', b'["A"]', b'{"input": "\xff"}']
)
def test_a_line_that_is_no_question_is_refused_by_its_number(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_bytes(line)
    with pytest.raises(DatasetError, match="line 1"):
        read_questions(tmp_path / "questions.jsonl", 10)
