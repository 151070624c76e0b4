"""The kind of device that a job waits for"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

NAME = "ix_jobs_queue"
PRIORITY = sa.text("priority DESC")
COLUMNS = ["status", "project_id", "desired", PRIORITY, "id", "not_before", "num_gpus"]


def upgrade() -> None:
    if not has_column("jobs", "gpu"):
        op.add_column("jobs", sa.Column("gpu", sa.String(), server_default="any", nullable=False))
    create_index(NAME, "jobs", [*COLUMNS, "gpu"])


def downgrade() -> None:
    op.drop_index(NAME, "jobs")
    op.create_index(NAME, "jobs", COLUMNS)
    op.drop_column("jobs", "gpu")
