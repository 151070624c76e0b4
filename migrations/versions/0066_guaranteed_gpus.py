"""GPUs that a project is guaranteed, the jobs that give theirs back, and the projects that a worker
serves
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0066"
down_revision = "0065"
branch_labels = None
depends_on = None

COLUMNS = (
    ("projects", sa.Column("guaranteed_gpus", sa.Integer(), nullable=True)),
    ("jobs", sa.Column("preempted_for", sa.String(), nullable=True)),
    ("jobs", sa.Column("preempted_at", sa.DateTime(timezone=True), nullable=True)),
    ("workers", sa.Column("project_ids", sa.JSON(), nullable=True)),
)


def upgrade() -> None:
    for table, column in COLUMNS:
        if not has_column(table, column.name):
            op.add_column(table, column)


def downgrade() -> None:
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column.name)
