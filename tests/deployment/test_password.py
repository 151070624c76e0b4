"""The password of Postgres reaches it beside the URL, as docker-compose.yml has it."""

from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from app.base.database import Database
from tests.support.postgres import PostgresServer

ENVIRONMENT = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())[
    "x-environment"
]
PASSWORD = "p@ss/w:rd%41 $1 #2 'x' \\"


def demand_passwords(postgres: PostgresServer, role: str) -> None:
    """Let the server ask this role for one."""
    access = postgres.data / "pg_hba.conf"
    access.write_text(f"local all {role} scram-sha-256\n{access.read_text()}")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")


def test_a_password_of_any_characters_opens_the_database(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE careful LOGIN PASSWORD {}").format(PASSWORD))
    demand_passwords(postgres, "careful")
    assert ENVIRONMENT["PGPASSWORD"].startswith("${POSTGRES_PASSWORD")
    url = make_url(ENVIRONMENT["DATABASE_URL"])
    assert url.password is None
    url = url.set(username="careful", host=None, database="postgres").update_query_dict(
        {"host": str(postgres.folder)}
    )
    database = Database(url.render_as_string(hide_password=False))
    monkeypatch.setenv("PGPASSWORD", "another")
    with (
        pytest.raises(OperationalError, match="password authentication failed"),
        database.read() as session,
    ):
        session.scalar(text("SELECT 1"))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with database.read() as session:
        assert session.scalar(text("SELECT current_user")) == "careful"
    database.dispose()
