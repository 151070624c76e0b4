"""Engines that stay loaded, and what engines take and do"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

TABLE = "engines"
FIGURES = {
    "memory_bytes": sa.BigInteger,
    "num_requests": sa.Integer,
    "tokens_per_second": sa.Double,
}


def upgrade() -> None:
    kept = sa.Column("keep_loaded", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column(TABLE, kept)
    for name, kind in FIGURES.items():
        op.add_column(TABLE, sa.Column(name, kind(), nullable=True))


def downgrade() -> None:
    for name in reversed(FIGURES):
        op.drop_column(TABLE, name)
    op.drop_column(TABLE, "keep_loaded")
