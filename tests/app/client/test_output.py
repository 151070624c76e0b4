import json

import pytest

from app.client.output import Output

HOSTILE = {"name": "\x1b[2J\x9b31m\u202egnp.exe\x7f", "ordinary": "größer\n"}


def test_json_steers_no_terminal_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.document(HOSTILE)
    out.json_line(HOSTILE)
    output = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "größer" in output
    assert json.loads(output.splitlines()[-1]) == HOSTILE


def test_nor_do_tables_and_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=False)
    out.say(HOSTILE["name"])
    out.table(["a"], [[HOSTILE["name"]]])
    out.facts(HOSTILE)
    output = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in output)
    assert "gnp.exe" in output
