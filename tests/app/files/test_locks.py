import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.base.database import Database
from app.files import repository
from app.models import DEFAULT_PROJECT_ID, FileStatus, Project
from tests.support.postgres import PostgresServer
from tests.support.rows import checked_file
from tests.support.schema import migrate_database


@pytest.fixture
def database(postgres: PostgresServer) -> Database:
    """On SQLite writers come one after the other anyway."""
    database = Database(postgres.create_database("locks"))
    migrate_database(database)
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.flush()
        session.add(checked_file("file-1", DEFAULT_PROJECT_ID, status=FileStatus.UPLOADED))
    return database


def test_jobs_share_the_lock_of_a_file_and_its_deletion_waits(database: Database) -> None:
    with database.transaction() as first, database.transaction() as second:
        assert repository.find_several(first, DEFAULT_PROJECT_ID, ["file-1"], lock=True)
        second.execute(text("SET LOCAL lock_timeout = '200ms'"))
        assert repository.find_several(second, DEFAULT_PROJECT_ID, ["file-1"], lock=True)
        for ends in (
            lambda: repository.find(second, DEFAULT_PROJECT_ID, "file-1", lock=True),
            lambda: repository.judge(second, "file-1", FileStatus.ERROR, "", None),
            lambda: repository.mark_deleted(second, ["file-1"]),
        ):
            with pytest.raises(OperationalError, match="lock timeout"), second.begin_nested():
                ends()
    database.dispose()
