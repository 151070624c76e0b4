"""How Postgres reads what a piece of code asks it for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.base.database import Database


class Plan(NamedTuple):
    statement: str
    scans: list[tuple[str, str]]  # the node, and the index or the table that it reads
    sorts: bool
    most_rows: int  # that one node gave, all its loops together


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is asked meanwhile, with its parameters."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def plans(database: Database, ask: Callable[[Session], object]) -> list[Plan]:
    """Of every statement, as it is executed now."""
    with statements(database) as executed, database.read() as session:
        ask(session)
    with database.engine.connect() as connection:
        explanations = [
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            ).scalar_one()
            for statement, parameters in executed
        ]
        connection.rollback()
    return [
        _plan(statement, explanation[0]["Plan"])
        for (statement, _), explanation in zip(executed, explanations, strict=True)
    ]


def _plan(statement: str, top: dict[str, Any]) -> Plan:
    nodes = list(_nodes(top))
    scans = [
        (node["Node Type"], node.get("Index Name", node.get("Relation Name", "")))
        for node in nodes
        if "Scan" in node["Node Type"]
    ]
    most_rows = max(round(node["Actual Rows"] * node["Actual Loops"]) for node in nodes)
    return Plan(statement, scans, any(node["Node Type"] == "Sort" for node in nodes), most_rows)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)
