"""Output of commands: the service's own objects as JSON, or tables and sentences for people."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.base.terminal import CONTROL, one_line, plain
from app.client import columns
from app.client.errors import ClientError

UNLIMITED = 2**31  # Width of a file or a pipe.


class Output:
    """With `as_json` stdout carries JSON and nothing else; sentences go to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=as_json)
        self._errors = _console(stderr=True)

    def show(
        self,
        value: Mapping[str, Any],
        text: str | Mapping[str, object] | Callable[[], None] | None = None,
    ) -> None:
        """Print an object as JSON, or what people read of it: a sentence, facts, or more."""
        if self.as_json:
            sys.stdout.write(_json(value, indent=2))
        elif isinstance(text, str):
            self.say(text)
        elif isinstance(text, Mapping):
            self.facts(text)
        elif text is not None:
            text()

    def json_line(self, value: Mapping[str, Any]) -> None:
        sys.stdout.write(_json(value))
        sys.stdout.flush()

    def say(self, text: str, style: str = "") -> None:
        """Print lines that the terminal may wrap, so that an id in them is copied as one."""
        self.console.print(Text(plain(text), style), soft_wrap=True)

    def write(self, text: str, style: str = "") -> None:
        """Print a piece of a line."""
        self.console.print(Text(plain(text), style), end="", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something beside what is printed, which may be read by a program."""
        self._errors.print(Text(plain(text), "dim"), soft_wrap=True)

    def table(
        self, heads: Iterable[str | columns.Column], rows: Iterable[Iterable[object]]
    ) -> None:
        """Print a line for each row, as wide as the terminal is; tabs between the cells elsewhere.

        The columns are in the order of their importance: the last one goes first where not all fit.
        """
        names = [columns.Column(head) if isinstance(head, str) else head for head in heads]
        is_short = self.console.is_terminal
        table_rows = [[_text(cell, is_short=is_short) for cell in row] for row in rows]
        cells = [[cell.plain for cell in row] for row in table_rows]
        widths = columns.fit(names, cells, self.console.width)
        # A single column may be wider than a terminal.
        if not self.console.is_terminal or len(widths) == 1:
            for line in ([column.name for column in names], *cells):
                self.console.file.write("\t".join(line[: len(widths)]) + "\n")  # rich expands tabs
            return
        table = Table(box=None, pad_edge=False, padding=(0, columns.GAP, 0, 0), header_style="bold")
        for column, width in zip(names, widths, strict=False):
            wraps = column.words == "wrapped"
            table.add_column(
                column.name,
                width=width,
                no_wrap=not wraps,
                overflow="fold" if wraps else "ellipsis",
            )
        for row in table_rows:
            table.add_row(*row[: len(widths)])
        self.console.print(table)

    def facts(self, facts: Mapping[str, object]) -> None:
        """Name and value, one pair a line; without those that are not known."""
        values = {name: plain(value) for name, value in facts.items() if value not in (None, "")}
        indent = max(map(len, values), default=0) + columns.GAP
        width = max(1, self.console.width - indent)
        for name, value in values.items():
            head = name
            for line in value.split("\n"):
                parts = wrap(line, width, break_long_words=False, break_on_hyphens=False)
                for part in parts or [""]:
                    text = Text.assemble((head.ljust(indent), "dim"), part)
                    self.console.print(text, soft_wrap=True)
                    head = ""

    def page(
        self,
        answer: Mapping[str, Any],
        heads: Iterable[str | columns.Column],
        rows: Iterable[Iterable[object]],
        nothing: str,
    ) -> None:
        """One page of a list, and how to ask for the next."""
        self.show(answer, partial(self.table, heads, rows) if answer["data"] else nothing)
        if answer.get("has_more") and not self.as_json:
            self.note(f"There are more: --after {answer['data'][-1]['id']}")

    def error(self, error: ClientError) -> None:
        if self.as_json:
            sys.stderr.write(_json({"error": error.body}))
            return
        text = Text.assemble(("Error: ", "bold red"), plain(error.message))
        self._errors.print(text, soft_wrap=True)
        if error.hint:
            self._errors.print(Text(plain(error.hint), "dim"), soft_wrap=True)


def _text(cell: object, *, is_short: bool) -> Text:
    if isinstance(cell, columns.Cell):
        return Text(one_line(cell.short), cell.style) if is_short else Text(one_line(cell.whole))
    return Text("" if cell is None else one_line(cell))


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
