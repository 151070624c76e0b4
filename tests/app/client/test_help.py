"""The help of every command ends with an example that the command takes."""

import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from app.cli import app

ROOT = typer.main.get_command(app)
MARK = "Example: falqon "


def commands(group: object, *before: str) -> Iterator[tuple[str, TyperCommand]]:
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *before, name)
        elif isinstance(command, TyperCommand):
            yield " ".join((*before, name)), command


COMMANDS = dict(commands(ROOT))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_accepts_the_example_of_its_help(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backup-of-today").mkdir()
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[path]
    example = command.epilog or ""
    assert example.startswith(f"{MARK}{path}")
    arguments = shlex.split(example.removeprefix(f"{MARK}{path}"))
    assert command.make_context(path, arguments).command is command


def test_the_help_shows_its_example_and_version_prints_the_version() -> None:
    assert (
        "Example: falqon jobs watch JOB"
        in CliRunner().invoke(app, ["jobs", "watch", "--help"]).stdout
    )
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"falqon {version('falqon')}\n")


@pytest.mark.parametrize("arguments", [["jobs", "create"], ["jobs"], ["up"], []])
def test_an_option_without_a_value_shows_no_type(arguments: list[str]) -> None:
    shown = CliRunner().invoke(app, [*arguments, "--help"]).stdout
    assert "--help" in shown
    assert "<bool>" not in shown
