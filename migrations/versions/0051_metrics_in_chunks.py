"""Metrics of many steps share a row; those that have rows of their own are found by an index and
folded while the service runs. The versions of 0049 and 0050 read both, older ones do not
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    own_row = sa.text("type = 'metrics'")
    create_index(
        "ix_events_own_rows",
        "events",
        ["job_id", "seq"],
        sqlite_where=own_row,
        postgresql_where=own_row,
    )


def downgrade() -> None:
    op.drop_index("ix_events_own_rows", "events")
