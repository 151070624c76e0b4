"""A file remembers the idempotency key that it was created with"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

INDEX = "uq_files_project_id_idempotency_key"
NOT_DELETED = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    if not has_column("files", "idempotency_key"):
        op.add_column("files", sa.Column("idempotency_key", sa.String()))
    create_index(
        INDEX,
        "files",
        ["project_id", "idempotency_key"],
        unique=True,
        sqlite_where=NOT_DELETED,
        postgresql_where=NOT_DELETED,
    )


def downgrade() -> None:
    op.drop_index(INDEX, "files")
    op.drop_column("files", "idempotency_key")
