from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from app.database import Database


def upgrade(database: Database) -> None:
    with database.engine.connect() as connection:
        command.upgrade(_config(connection), "head")
        connection.commit()


def at_head(database: Database) -> bool:
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_heads()
        return set(current) == set(ScriptDirectory.from_config(_config(connection)).get_heads())


def _config(connection: object) -> Config:
    config = Config(Path(migrations.__path__[0]) / "alembic.ini")
    config.attributes["connection"] = connection
    return config
