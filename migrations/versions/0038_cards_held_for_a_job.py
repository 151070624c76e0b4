"""The machine that keeps its free cards for a job that wants several"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("held_by", sa.String(), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
    ):
        if not has_column("jobs", column.name):
            op.add_column("jobs", column)


def downgrade() -> None:
    op.drop_column("jobs", "held_until")
    op.drop_column("jobs", "held_by")
