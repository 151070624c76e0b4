"""When the collector has looked where, and attempts by when they ended"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

COLUMNS = ("collected_at", "surveyed_at")


def upgrade() -> None:
    for name in COLUMNS:
        if not has_column("installation", name):
            op.add_column(
                "installation", sa.Column(name, sa.DateTime(timezone=True), nullable=True)
            )
    create_index("ix_attempts_ended_at", "attempts", ["ended_at"])


def downgrade() -> None:
    op.drop_index("ix_attempts_ended_at", "attempts")
    for name in COLUMNS:
        op.drop_column("installation", name)
