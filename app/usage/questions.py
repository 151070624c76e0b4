"""Questions to models, counted in the process that had them answered."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from threading import Lock
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.database import Database, insert_or, now
from app.base.settings import Settings, TokenPrice
from app.models import Model, QuestionDay, QuestionSource
from app.usage.last_use import note_use

EVERY_MODEL = "*"  # in the settings' prices
PRICED_TOKENS = 1_000_000  # a price is that of so many


class QuestionKey(NamedTuple):
    project_id: str
    key_id: str
    model_id: str
    source: QuestionSource = QuestionSource.REQUEST


class QuestionCount(NamedTuple):
    requests: int
    input_tokens: int
    output_tokens: int

    def plus(self, other: "QuestionCount") -> "QuestionCount":
        return QuestionCount(*(mine + its for mine, its in zip(self, other, strict=True)))

    def minus(self, other: "QuestionCount") -> "QuestionCount":
        return QuestionCount(*(mine - its for mine, its in zip(self, other, strict=True)))


NOTHING = QuestionCount(0, 0, 0)


class QuestionCounts:
    """Counts that are not in the database yet."""

    def __init__(self, settings: Settings) -> None:
        self._prices = settings.token_prices
        self._counts: defaultdict[QuestionKey, QuestionCount] = defaultdict(lambda: NOTHING)
        self._lock = Lock()

    def add(self, key: QuestionKey, count: QuestionCount) -> None:
        if any(count):
            with self._lock:
                self._counts[key] = self._counts[key].plus(count)

    def write(self, database: Database) -> None:
        """Add the counts to those of the day. Raises `SQLAlchemyError` while the database is
        unavailable; the counts stay.
        """
        with self._lock:
            counts = dict(self._counts)
            self._counts.clear()
        if not counts:
            return
        try:
            with database.transaction() as session:
                add(session, counts, self._prices)
        except SQLAlchemyError:
            for key, count in counts.items():
                self.add(key, count)
            raise


def add(
    session: Session,
    counts: Mapping[QuestionKey, QuestionCount],
    prices: Mapping[str, TokenPrice],
) -> None:
    """Add the counts to those of today, by the database's clock, at the prices of now."""
    day = now(session).date()
    bases = _base_models(session, {key.model_id for key in counts})
    for key, count in sorted(counts.items()):
        base_model_id = bases.get(key.model_id) or key.model_id
        amounts = count._asdict() | {"cost": _cost(key, base_model_id, count, prices)}
        row = key._asdict() | amounts | {"day": day, "base_model_id": base_model_id}
        statement = insert_or(session, QuestionDay).values(row)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["day", *QuestionKey._fields],
                set_={name: getattr(QuestionDay, name) + value for name, value in amounts.items()},
            )
        )
    for model_id in sorted({key.model_id for key in counts}):
        note_use(session, model_id)


def _base_models(session: Session, model_ids: set[str]) -> dict[str, str | None]:
    statement = select(Model.id, Model.base_model_id).where(Model.id.in_(model_ids))
    return {row.id: row.base_model_id for row in session.execute(statement)}


def _cost(
    key: QuestionKey, base_model_id: str, count: QuestionCount, prices: Mapping[str, TokenPrice]
) -> Decimal:
    """Return the price of the tokens. Batches and evaluations pay for the time of engines."""
    if key.source != QuestionSource.REQUEST:
        return Decimal(0)
    names = (key.model_id, base_model_id, EVERY_MODEL)
    price = next((prices[name] for name in names if name in prices), None)
    if price is None:
        return Decimal(0)
    tokens = price.input * count.input_tokens + price.output * count.output_tokens
    return tokens / PRICED_TOKENS
