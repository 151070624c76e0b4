from alembic import context
from sqlalchemy import Connection

from app.models import Base


def _run(connection: Connection) -> None:
    # SQLite cannot alter columns in place, so Alembic copies the table there.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
