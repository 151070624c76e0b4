"""`falqon models fit`, which needs no service."""

import json
import os
import re
import sys

from typer.testing import CliRunner

from app.cli import app
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.fit import CARDS
from falqon_core.estimate.published import PUBLISHED_MODELS
from tests.support.backend import ROOT
from tests.support.terminal import Terminal

NUM_COLUMNS = 80


def lines_of(*arguments: str) -> list[list[str]]:
    result = CliRunner().invoke(app, ["models", "fit", *arguments])
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_a_large_model_fits_the_large_card_only() -> None:
    names, *rows = lines_of()
    assert names == ["model", *(card.name for card in CARDS), "here"]
    cells = {row[0]: row[1:-1] for row in rows}
    assert cells.keys() == PUBLISHED_MODELS.keys()
    assert "-" not in cells["SmolLM2-135M"]
    assert cells["Llama-3.3-70B"][:-1] == ["-"] * 4
    assert "h $" in cells["Llama-3.3-70B"][-1] or "m $" in cells["Llama-3.3-70B"][-1]


def table_of(page: str, head: str) -> list[list[str]]:
    """Return the cells of the table in a page that begins with this word."""
    text = (ROOT / page).read_text()
    (table,) = re.findall(rf"^```text\n({head} .*?)^```", text, re.M | re.S)
    return [re.split(r" {2,}", line) for line in table.splitlines()]


def test_the_documents_show_the_figures_of_today() -> None:
    assert table_of("README.md", "model") == [row[:-1] for row in lines_of()]
    rows = lines_of("Qwen3-8B")
    assert all(row in rows for row in table_of("docs/models.md", "card"))


def test_one_model_has_a_row_for_each_card_and_method() -> None:
    _, *rows = lines_of("Qwen3-8B")
    assert [row[:2] for row in rows] == [
        [card, method]
        for card in (*(card.name for card in CARDS), "here")
        for method in METHOD_SPECS
    ]
    assert all(row[2].isdecimal() for row in rows if row[0] == "80 GB")


def test_json_has_the_band_and_no_cost_for_a_card_without_a_price() -> None:
    result = CliRunner().invoke(app, ["models", "fit", "Qwen3-8B", "--json"])
    rows = {(row["card"], row["method"]): row for row in json.loads(result.stdout)["data"]}
    row = rows["24 GB", "falqon"]
    assert row["fits"] is True
    assert row["seconds"]["low"] < row["seconds"]["expected"] < row["seconds"]["high"]
    assert row["cost"]["usd_per_device_hour"] == "0.35"
    assert rows["32 GB", "falqon"]["cost"] is None
    assert "not measured" in result.stderr


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    for arguments, name in ((["gpt-4o"], "Qwen3-8B"), (["--method", "magic"], "qlora")):
        result = CliRunner().invoke(app, ["models", "fit", *arguments])
        assert result.exit_code == 1
        assert name in result.stderr


def test_the_table_fits_a_narrow_terminal() -> None:
    terminal = Terminal(
        [
            "/usr/bin/env",
            f"COLUMNS={NUM_COLUMNS}",
            sys.executable,
            "-m",
            "app.cli",
            "models",
            "fit",
        ],
        os.environ,
    )
    assert terminal.finish() == 0
    head = next(line for line in terminal.text.splitlines() if line.startswith("model"))
    assert head.split()[-1] == "here", "no column is left out"
