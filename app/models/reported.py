"""Columns and elements of JSON with values that a worker reports: any value may be stored, but a
read value is finite and bounded, and no statement fails because of it.
"""

import math
from decimal import Decimal
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Dialect, Double, case
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.models.base import JsonObject, StoredJson
from falqon_core.contract.figures import MAX_MEASURE

AMOUNT = r"^[0-9]{1,21}(\.[0-9]{1,9})?$"
MAX_FLOAT = 1e15  # sums of millions of rows stay finite


class ReportedFloat(TypeDecorator[float]):
    """Number that a worker reports: finite and bounded when read, even if the stored one is not."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else _bound(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else _bound(value)


class ReportedMetrics(TypeDecorator[JsonObject]):
    """Metrics that a worker reports, restricted to bounded numbers."""

    impl = StoredJson
    cache_ok = True

    def process_result_value(self, value: JsonObject | None, dialect: Dialect) -> JsonObject | None:
        return None if value is None else {k: v for k, v in value.items() if is_measure(v)}


def is_measure(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_MEASURE <= value <= MAX_MEASURE


def _bound(value: float) -> float:
    return 0.0 if math.isnan(value) else max(-MAX_FLOAT, min(MAX_FLOAT, value))


class _IsNumber(FunctionElement[bool]):
    """Condition that an element of JSON is a number that a worker may report."""

    type = Boolean()
    inherit_cache = True


@compiles(_IsNumber, "sqlite")
def _is_number_of_sqlite(element: _IsNumber, compiler: SQLCompiler, **kw: Any) -> str:
    value = compiler.process(element.clauses, **kw)
    is_bounded = f"abs(CAST({value} AS REAL)) <= {MAX_MEASURE}"
    return f"(json_type({value}) IN ('integer', 'real') AND {is_bounded})"


@compiles(_IsNumber, "postgresql")
def _is_number_of_postgresql(element: _IsNumber, compiler: SQLCompiler, **kw: Any) -> str:
    value = compiler.process(element.clauses, **kw)
    is_bounded = f"abs(CAST({value} AS NUMERIC)) <= {MAX_MEASURE}"
    return f"CASE WHEN jsonb_typeof({value}) = 'number' THEN {is_bounded} ELSE false END"


def json_number(element: Any) -> ColumnElement[float | None]:
    """Return the number in an element of stored JSON; null where it is none, or so large that
    Postgres refuses to cast it.
    """
    return case((_IsNumber(element), element.as_float()), else_=None)


class _IsAmount(FunctionElement[bool]):
    """Condition that a text is an amount of money that Postgres can cast; SQLite casts any."""

    type = Boolean()
    inherit_cache = True


@compiles(_IsAmount, "sqlite")
def _is_amount_of_sqlite(element: _IsAmount, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{compiler.process(element.clauses, **kw)} IS NOT NULL"


@compiles(_IsAmount, "postgresql")
def _is_amount_of_postgresql(element: _IsAmount, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{compiler.process(element.clauses, **kw)} ~ '{AMOUNT}'"


def json_amount(element: Any) -> ColumnElement[Decimal | None]:
    """Return the amount of money in an element of stored JSON, where it is text; null else."""
    return case((_IsAmount(element.as_string()), element.as_numeric(38, 6)), else_=None)
