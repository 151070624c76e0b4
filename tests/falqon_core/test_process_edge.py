from pathlib import Path

import pytest
from typer.testing import CliRunner

from falqon_core.cli import app
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.messages import ExitCode
from falqon_core.process_edge import check_folder, check_output


def test_an_output_never_replaces_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that a person stands in, with the training and everything else."""
    monkeypatch.chdir(tmp_path)
    for name in ("training", "base"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "SHA256SUMS").touch()
    for command in (
        ["export", "training", "--model", "base", "--output", "."],
        ["export", "training", "--model", "base", "--output", "base"],
        ["convert", "training/deep", "--to", "lora", "--output", "training"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == ExitCode.USER_ERROR
        assert "which is read; choose another folder" in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["SHA256SUMS", "base", "deep", "deep", "training"]
    )


def test_an_export_replaces_an_earlier_export_only(tmp_path: Path) -> None:
    output = tmp_path / "output"
    source = tmp_path / "source"
    check_output(output, source, None)
    output.mkdir()
    check_output(output, source)
    (output / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is there and no exported model") as caught:
        check_output(output, source)
    assert caught.value.param == "output"
    with pytest.raises(ConfigError, match="is there and no exported model"):
        check_output(output / "thesis.tex", source)
    (output / "SHA256SUMS").touch()
    check_output(output, source)


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("output", ["file", "file/deeper/still"])
def test_a_file_in_the_way_is_seen_before_the_training(
    command: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "config.json").write_text('{"model": "m", "train_file": "t.jsonl"}')
    arguments = ["--config", str(tmp_path / "config.json"), "--output", str(tmp_path / output)]
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == ExitCode.USER_ERROR
    assert f"{tmp_path / 'file'} is no folder" in result.output


def test_a_file_at_the_place_of_the_model_is_seen_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    (tmp_path / "config.json").write_text('{"model": "m", "train_file": "t.jsonl"}')
    arguments = ["--config", str(tmp_path / "config.json"), "--output", str(tmp_path)]
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == ExitCode.USER_ERROR
    assert f"{tmp_path / 'model'} is no folder" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ["import", "builtin:falqon-tiny"],
        ["export", "training", "--model", "base"],
        ["convert", "checkpoint", "--to", "lora"],
    ],
)
def test_a_model_is_not_written_where_a_file_is_in_the_way(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "file" / "model")])
    assert result.exit_code == ExitCode.USER_ERROR
    assert f"{tmp_path / 'file'} is no folder" in result.stderr


def test_a_folder_that_may_not_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match="may not be written to") as caught:
        check_folder(tmp_path / "deeper" / "still")
    assert caught.value.param == "output"


@pytest.mark.parametrize(
    "command",
    [["import", "LONG", "--output", "model"], ["convert", "LONG", "--to", "bf16", "--output", "m"]],
)
def test_a_name_that_no_file_can_have_is_the_users_mistake(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace("LONG", "x" * 300) for word in command]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == ExitCode.USER_ERROR
    assert "File name too long" in result.stderr
    assert "Traceback" not in result.stderr
