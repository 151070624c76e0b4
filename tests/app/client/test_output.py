import json
from io import StringIO

import pytest
from rich.console import Console

from app.client.columns import Cell, Column
from app.client.output import Output
from tests.support.terminal import CONTROL_SEQUENCE

HOSTILE = {"name": "\x1b[2J\x9b31m\u202egnp.exe\x7f", "ordinary": "größer\n"}


def test_json_output_has_no_control_characters_and_keeps_its_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Output(as_json=True)
    out.show(HOSTILE)
    out.json_line(HOSTILE)
    output = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "größer" in output
    assert json.loads(output.splitlines()[-1]) == HOSTILE


def test_tables_and_sentences_have_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Output(as_json=False)
    out.say(HOSTILE["name"])
    out.table(["a"], [[HOSTILE["name"]]])
    out.table(["a", "b"], [["\t", "c"]])
    out.facts(HOSTILE)
    output = capsys.readouterr().out
    assert all(character.isprintable() or character in "\n\t" for character in output)
    assert "gnp.exe" in output
    assert output.splitlines()[3:5] == ["a\tb", " \tc"], "one tab between two cells"


ID = "file-01a21fb40be576f797ea1646e514c22d"
ROW = (
    ID,
    "a rather long name.jsonl",
    "error: line 4, column 1: this line has another shape",
    "1 B",
)


def printed(width: int, rows: list[tuple[str, ...]]) -> list[str]:
    """What a terminal so wide gets of a list of files."""
    out = Output(as_json=False)
    out.console = Console(width=width, force_terminal=True, no_color=True, file=StringIO())
    words = (Column("name", "shortened"), Column("status", "shortened"))
    out.table(("id", *words, "size"), rows)
    return [
        CONTROL_SEQUENCE.sub("", line).rstrip() for line in out.console.file.getvalue().splitlines()
    ]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 20])
def test_each_row_is_one_line_with_its_whole_id(width: int) -> None:
    _, *rows = printed(width, [ROW, ROW])
    assert len(rows) == 2
    assert rows[0].startswith(ID)
    assert max(map(len, rows)) <= max(width, len(ID))


def test_words_give_way_before_columns_do() -> None:
    assert printed(200, [ROW])[1].split("  ") == list(ROW)
    head, row = printed(80, [ROW])
    assert head.split() == ["id", "name", "status", "size"]
    assert row.split("  ")[1:] == ["a rather long n…", "error: line 4, c…", "1 B"]
    assert printed(60, [ROW])[0].split() == ["id", "name"]
    assert printed(20, [ROW])[0].split() == ["id"]


def test_of_facts_the_names_alone_are_dim() -> None:
    out = Output(as_json=False)
    out.console = Console(width=30, force_terminal=True, color_system="standard", file=StringIO())
    out.facts({"cost": "$0.10"})
    assert out.console.file.getvalue() == "\x1b[2mcost  \x1b[0m$0.10\n"  # type: ignore[attr-defined]


def test_facts_keep_their_ids_whole_and_wrap_their_words() -> None:
    out = Output(as_json=False)
    out.console = Console(width=30, force_terminal=True, no_color=True, file=StringIO())
    out.facts({"id": ID, "why": "of several words that do not fit on one line"})
    lines = CONTROL_SEQUENCE.sub("", out.console.file.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert lines[0] == f"id   {ID}"
    assert lines[1:] == ["why  of several words that do", "     not fit on one line"]


def test_a_terminal_shows_the_short_form_in_its_colour_and_a_program_gets_the_whole_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = (Cell(ID, ID[-8:]), Cell("failed", "failed", "red"))
    out = Output(as_json=False)
    out.table(("id", "status"), [row])
    assert capsys.readouterr().out.splitlines()[1] == f"{ID}\tfailed"
    out.console = Console(width=80, force_terminal=True, color_system="standard", file=StringIO())
    out.table(("id", "status"), [row])
    shown = out.console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined]
    assert "\x1b[31mfailed" in shown
    assert CONTROL_SEQUENCE.sub("", shown).split() == [ID[-8:], "failed"]
