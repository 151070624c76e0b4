"""The oldest jobs that wait are read from an index of theirs: where many wait behind many that have
ended, Postgres looked through all of those
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    queued = sa.text("status = 'queued'")
    create_index("ix_jobs_queued", "jobs", ["id"], sqlite_where=queued, postgresql_where=queued)


def downgrade() -> None:
    op.drop_index("ix_jobs_queued", "jobs")
