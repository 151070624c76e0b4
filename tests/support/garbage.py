"""The weekly search through a storage, whenever a test wants it."""

from sqlalchemy import update

from app.base.database import Database
from app.base.storage import Storage
from app.garbage import collector
from app.models import Installation


def collect(database: Database, storage: Storage) -> int:
    with database.transaction() as session:
        session.execute(update(Installation).values(surveyed_at=None))
    return collector.collect_due(database, storage, lambda _: None)
