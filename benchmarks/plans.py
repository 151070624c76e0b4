"""What Postgres says of the statements that a piece of the service sends: how long each takes, and
how it reads its tables.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session

from app.base.database import Database

Ask = Callable[[Session], object]
Statement = tuple[str, Any]
Plan = dict[str, Any]
READS_OR_WRITES = re.compile(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b").match  # no savepoints
MAX_CONDITION = 200
CONDITIONS = ("Index Cond", "Filter", "Rows Removed by Filter", "Sort Key")


@dataclass(frozen=True, slots=True)
class StatementCost:
    """Of one statement, the best of some runs with a warm cache."""

    statement: str
    plan: Plan

    @property
    def milliseconds(self) -> float:
        return self.planning_ms + self.execution_ms

    @property
    def planning_ms(self) -> float:
        return float(self.plan["Planning Time"])

    @property
    def execution_ms(self) -> float:
        return float(self.plan["Execution Time"])

    @property
    def num_buffers(self) -> int:
        """Count the pages of 8 KiB that it looked at, in memory or not."""
        node = self.plan["Plan"]
        return int(node["Shared Hit Blocks"]) + int(node["Shared Read Blocks"])

    @property
    def reads(self) -> str:
        """Name the nodes that read a table or an index, in the order of the plan, each once."""
        return " + ".join(dict.fromkeys(_reads(self.plan["Plan"])))

    @property
    def description(self) -> str:
        """The plan as a tree of lines."""
        return "\n".join(_describe(self.plan["Plan"], 0))


def measure(database: Database, ask: Ask, num_runs: int) -> list[StatementCost]:
    """Ask once to learn the statements, then have each explained in its turn; nothing of it is
    kept. What `ask` does with the database in sessions of its own counts, too.
    """
    statements = _collect(database, ask)
    runs = [_explain_all(database, statements) for _ in range(num_runs)]
    return [min(same, key=lambda cost: cost.milliseconds) for same in zip(*runs, strict=True)]


def _collect(database: Database, ask: Ask) -> list[Statement]:
    with _note(database.engine) as statements, database.engine.connect() as connection:
        ask(Session(connection))
        connection.rollback()
    # Of the same again once: what is rolled back is done anew.
    distinct = {(text, repr(given)): (text, given) for text, given in statements}
    return [each for each in distinct.values() if READS_OR_WRITES(each[0])]


@contextmanager
def _note(engine: Engine) -> Iterator[list[Statement]]:
    statements: list[Statement] = []

    def note(
        _connection: object,
        _cursor: object,
        statement: str,
        given: Any,
        _context: object,
        many: bool,
    ) -> None:
        statements.extend((statement, row) for row in (given if many else [given]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _explain_all(database: Database, statements: Sequence[Statement]) -> list[StatementCost]:
    with database.engine.connect() as connection:
        costs = [
            StatementCost(text, _explain(connection, text, given)) for text, given in statements
        ]
        connection.rollback()
    return costs


def _explain(connection: Connection, statement: str, parameters: Any) -> Plan:
    explained = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}"
    plan: Plan = connection.exec_driver_sql(explained, parameters).scalar_one()[0]
    return plan


def _reads(node: dict[str, Any]) -> Iterator[str]:
    """Leave out what only follows from an index that is named below it."""
    if "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Heap Scan" and _name(node):
        yield f"{node['Node Type']} {_name(node)}"
    for child in node.get("Plans", []):
        yield from _reads(child)


def _describe(node: dict[str, Any], depth: int) -> Iterator[str]:
    texts = {name: str(node[name]) for name in CONDITIONS if name in node}
    conditions = "".join(f", {name}: {_shorten(text)}" for name, text in texts.items())
    yield (
        f"{'  ' * depth}{node['Node Type']} {_name(node)} rows={node['Actual Rows']:g} "
        f"loops={node['Actual Loops']:g} pages={node['Shared Hit Blocks']}"
        f"+{node['Shared Read Blocks']}{conditions}"
    )
    for child in node.get("Plans", []):
        yield from _describe(child, depth + 1)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CONDITION else text[:MAX_CONDITION] + "…"


def _name(node: dict[str, Any]) -> str:
    return str(node.get("Index Name", node.get("Relation Name", "")))
