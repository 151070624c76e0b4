"""Metrics of many steps may share a row, which this version reads and does not write yet"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.operations import has_column

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("events", "first_seq"):
        op.add_column("events", sa.Column("first_seq", sa.Integer(), nullable=True))
    if not has_column("events", "outline"):
        json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
        op.add_column("events", sa.Column("outline", json, nullable=True))


def downgrade() -> None:
    op.drop_column("events", "outline")
    op.drop_column("events", "first_seq")
