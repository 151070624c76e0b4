"""Jobs wait after a loss before they are tried again"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

QUEUE = ["status", "project_id", "desired", sa.text("priority DESC"), "id"]


def upgrade() -> None:
    if not has_column("jobs", "not_before"):
        op.add_column("jobs", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    create_index("ix_jobs_queue", "jobs", [*QUEUE, "not_before"])


def downgrade() -> None:
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", QUEUE)
    op.drop_column("jobs", "not_before")
