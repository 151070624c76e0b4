"""Pages of a large project's stored answers are read from indexes."""

import itertools
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.base.database import Database
from app.models import DEFAULT_PROJECT_ID, Project
from app.models.answer_file import AnswerFilter
from app.stored_answers import repository
from app.stored_answers.schemas import Order
from tests.support.plans import plans
from tests.support.postgres import PostgresServer
from tests.support.schema import create_migrated

NUM_ANSWERS = 20_000
LIMIT = 20
MIDDLE = f"{NUM_ANSWERS // 2:032x}"
_numbers = itertools.count()
# An answer in four is of another kind, one in a hundred of another model, one in fifty corrected;
# one in ten is rated. Documents have the size of a short answer, or a plan could read them all.
ANSWERS = f"""
INSERT INTO stored_answers
    (id, project_id, kind, model, key_id, created_at, bytes, document, corrected, question)
SELECT lpad(to_hex(n), 32, '0'), '{DEFAULT_PROJECT_ID}',
    CASE WHEN n % 4 = 0 THEN 'response' ELSE 'chat.completion' END,
    CASE WHEN n % 100 = 1 THEN 'rare' ELSE 'falqon-tiny' END,
    'key', now(), 2, repeat('x', 1500), CASE WHEN n % 50 = 0 THEN '{{}}' END, '{{}}'
FROM generate_series(1, {NUM_ANSWERS}) AS n
"""
PAIRS = f"""
INSERT INTO stored_answer_metadata (answer_id, name, value, project_id)
SELECT lpad(to_hex(n), 32, '0'), 'rating', CASE WHEN n % 20 = 0 THEN 'bad' ELSE 'good' END,
    '{DEFAULT_PROJECT_ID}'
FROM generate_series(1, {NUM_ANSWERS}) AS n WHERE n % 10 = 0
"""


@pytest.fixture(scope="module")
def large(postgres: PostgresServer) -> Iterator[Database]:
    database = Database(create_migrated(postgres, f"answers_{next(_numbers)}"))
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="ours"))
    with database.engine.begin() as connection:
        for statement in (ANSWERS, PAIRS):
            connection.execute(text(statement))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    yield database
    database.dispose()


@pytest.mark.parametrize(
    "filter",
    [
        AnswerFilter(),
        AnswerFilter(kind="response"),
        AnswerFilter(model="rare"),
        AnswerFilter(corrected=True),
        AnswerFilter(metadata={"rating": "bad"}),
        AnswerFilter(created_after=1),
    ],
)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_in_the_middle_reads_no_more_than_a_page(
    large: Database, filter: AnswerFilter, order: Order
) -> None:
    arguments = {"after": MIDDLE, "limit": LIMIT, "order": order}
    (plan,) = plans(
        large, lambda session: repository.page(session, DEFAULT_PROJECT_ID, filter, **arguments)
    )
    assert all("Index" in node for node, _ in plan.scans), plan.scans
    assert not plan.sorts, plan
    assert plan.most_rows <= LIMIT + 1, plan
