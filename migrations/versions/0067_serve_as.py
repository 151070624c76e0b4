"""Models that answer as an adapter on their base"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0067"
down_revision = "0066"
branch_labels = None
depends_on = None

TABLES = ("models", "projects")


def upgrade() -> None:
    for table in TABLES:
        if not has_column(table, "serve_as"):
            column = sa.Column("serve_as", sa.String(), nullable=False, server_default="merged")
            op.add_column(table, column)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_column(table, "serve_as")
