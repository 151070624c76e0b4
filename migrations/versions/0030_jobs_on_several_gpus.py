"""Jobs on several GPUs of one machine"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

QUEUE = ["status", "project_id", "desired", sa.text("priority DESC"), "id", "not_before"]
COLUMNS = {"jobs": "num_gpus", "workers": "max_gpus"}


def upgrade() -> None:
    for table, name in COLUMNS.items():
        if not has_column(table, name):
            column = sa.Column(name, sa.Integer(), server_default="1", nullable=False)
            op.add_column(table, column)
    create_index("ix_jobs_queue", "jobs", [*QUEUE, "num_gpus"])


def downgrade() -> None:
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index("ix_jobs_queue", "jobs", QUEUE)
    for table, name in COLUMNS.items():
        op.drop_column(table, name)
