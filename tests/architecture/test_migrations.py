"""An older version works on the newer schema, and nobody is locked out while it is made: read from
the SQL that each migration sends to Postgres.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event

from app.base import migrate
from app.base.database import Database
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
TAKES_AWAY = re.compile(
    r"DROP TABLE|ALTER TABLE .*\b(DROP|RENAME|TYPE|SET NOT NULL)\b|TRUNCATE|"
    r"DELETE FROM (?!alembic)",
    re.IGNORECASE,
)
# A row that an older version writes has the default of the further column.
LONGER_KEY = re.compile(
    r"ALTER TABLE (\w+) DROP CONSTRAINT pk_\1, ADD CONSTRAINT pk_\1 PRIMARY KEY \(\w+, \w+\)"
)
REQUIRED = re.compile(r"ALTER TABLE \S+ ADD COLUMN (?!.*DEFAULT).*NOT NULL", re.IGNORECASE)
TABLE = re.compile(r"CREATE TABLE (\w+)", re.IGNORECASE)
INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?\w+ ON (\w+)", re.IGNORECASE)

Statements = dict[str, list[str]]


@pytest.fixture(scope="module")
def sent(postgres: PostgresServer) -> Statements:
    """The statements of each revision, oldest first."""
    database = Database(postgres.create_database("rules"))
    statements = Statements()
    scripts = ScriptDirectory.from_config(migrate._config(None))
    with database.engine.connect() as connection:
        for revision in [script.revision for script in scripts.walk_revisions()][::-1]:
            statements[revision] = _statements_of(connection, revision)
    database.dispose()
    return statements


def _statements_of(connection: Connection, revision: str) -> list[str]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(" ".join(statement.split()))

    event.listen(connection, "before_cursor_execute", note)
    command.upgrade(migrate._config(connection), revision)
    connection.commit()
    event.remove(connection, "before_cursor_execute", note)
    return statements


def test_migrations_only_add(sent: Statements) -> None:
    assert len(sent) == len(list((ROOT / "migrations" / "versions").glob("*.py")))
    for revision, statements in sent.items():
        taking = filter(TAKES_AWAY.search, statements)
        assert [each for each in taking if not LONGER_KEY.fullmatch(each)] == [], revision
        unknown = [statement for statement in statements if REQUIRED.search(statement)]
        assert unknown == [], f"{revision}: an older version would write rows without it"


def test_migrations_build_indexes_concurrently(sent: Statements) -> None:
    """`migrations.operations.create_index` does it."""
    for revision, statements in sent.items():
        own = {match[1] for statement in statements if (match := TABLE.match(statement))}
        indexes = [match for statement in statements if (match := INDEX.match(statement))]
        assert [match[0] for match in indexes if not match[1] and match[2] not in own] == [], (
            revision
        )


def test_a_migration_that_breaks_a_rule_is_reported() -> None:
    taking = (
        "DROP TABLE jobs",
        "ALTER TABLE jobs DROP COLUMN a",
        "ALTER TABLE jobs RENAME a TO b",
        "ALTER TABLE jobs ALTER COLUMN a TYPE BIGINT",
    )
    assert all(TAKES_AWAY.search(statement) for statement in taking)
    assert not TAKES_AWAY.search("ALTER TABLE jobs ADD COLUMN dropped VARCHAR")
    dropped = "ALTER TABLE jobs DROP CONSTRAINT pk_jobs"
    assert LONGER_KEY.fullmatch(f"{dropped}, ADD CONSTRAINT pk_jobs PRIMARY KEY (a, b)")
    assert not LONGER_KEY.fullmatch(dropped)
    assert not LONGER_KEY.fullmatch(f"{dropped}, ADD CONSTRAINT pk_jobs PRIMARY KEY (a)")
    assert REQUIRED.search("ALTER TABLE jobs ADD COLUMN a INTEGER NOT NULL")
    assert not REQUIRED.search("ALTER TABLE jobs ADD COLUMN a INTEGER DEFAULT '0' NOT NULL")
    match = INDEX.match("CREATE INDEX ix ON jobs (a)")
    assert match is not None
    assert (match[1], match[2]) == (None, "jobs")
