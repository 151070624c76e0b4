"""Which attempts have a log of their trainer, and how much it wrote"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("attempts", "log_bytes"):
        column = sa.Column("log_bytes", sa.BigInteger(), server_default="0", nullable=False)
        op.add_column("attempts", column)


def downgrade() -> None:
    op.drop_column("attempts", "log_bytes")
