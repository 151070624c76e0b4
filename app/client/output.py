"""What a command prints: the service's own objects as JSON, or tables and sentences for people."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.client.errors import ClientError
from app.terminal import CONTROL, one_line, plain

UNLIMITED = 10_000  # what is not a terminal has no width, and an id cut in two is no id


class Output:
    """With `as_json` stdout carries JSON and nothing else; sentences go to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=as_json)
        self._errors = _console(stderr=True)

    def document(self, value: Mapping[str, Any]) -> None:
        sys.stdout.write(_json(value, indent=2))

    def json_line(self, value: Mapping[str, Any]) -> None:
        sys.stdout.write(_json(value))
        sys.stdout.flush()

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(plain(text), style))

    def write(self, text: str, style: str = "") -> None:
        """Print a piece of a line."""
        self.console.print(Text(plain(text), style), end="", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something beside what is printed, which may be read by a program."""
        self._errors.print(Text(plain(text), "dim"))

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else one_line(cell)) for cell in row))
        self.console.print(table)

    def facts(self, facts: Mapping[str, object]) -> None:
        """Name and value, one pair a line; without those that are not known."""
        grid = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            if value not in (None, ""):
                grid.add_row(Text(name, "dim"), Text(plain(value)))
        self.console.print(grid)

    def page(
        self,
        answer: Mapping[str, Any],
        columns: Iterable[str],
        rows: Iterable[Iterable[object]],
        nothing: str,
    ) -> None:
        """One page of a list, and how to ask for the next."""
        if self.as_json:
            self.document(answer)
        elif not answer["data"]:
            self.say(nothing)
        else:
            self.table(columns, rows)
            if answer.get("has_more"):
                self.say(f"There are more: --after {answer['data'][-1]['id']}", "dim")

    def error(self, error: ClientError) -> None:
        if self.as_json:
            sys.stderr.write(_json({"error": error.body}))
            return
        self._errors.print(Text("Error: ", "bold red") + Text(plain(error.message)))
        if error.hint:
            self._errors.print(Text(plain(error.hint), "dim"))


def _json(value: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON escapes some control characters by itself, and the others mean the same when they are
    escaped.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=UNLIMITED)
