"""When the events of a job were removed, and the jobs that have ended and still have theirs"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("jobs", "events_removed_at"):
        removed_at = sa.Column("events_removed_at", sa.DateTime(timezone=True), nullable=True)
        op.add_column("jobs", removed_at)
    kept = sa.text("events_removed_at IS NULL")
    create_index(
        "ix_jobs_events_kept", "jobs", ["finished_at"], sqlite_where=kept, postgresql_where=kept
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_events_kept", "jobs")
    op.drop_column("jobs", "events_removed_at")
