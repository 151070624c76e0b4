"""The queue's index in the order in which jobs are taken: it was read backwards and sorted, 19 ms
with 10,000 queued jobs; now 0.3 ms
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    in_order = ["status", "project_id", "desired", sa.text("priority DESC"), "id"]
    create_index("ix_jobs_queue", "jobs", in_order)


def downgrade() -> None:
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", ["status", "project_id", "desired", "priority", "id"])
