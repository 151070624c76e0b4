"""The most GPUs that a project's running jobs may hold, and the virtual time at which its newest
claim began
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("projects", "max_running_gpus"):
        op.add_column("projects", sa.Column("max_running_gpus", sa.Integer(), nullable=True))
    if not has_column("projects", "virtual_start"):
        op.add_column(
            "projects", sa.Column("virtual_start", sa.Double(), nullable=False, server_default="0")
        )
        op.execute("UPDATE projects SET virtual_start = virtual_time - 1.0 / weight")


def downgrade() -> None:
    op.drop_column("projects", "virtual_start")
    op.drop_column("projects", "max_running_gpus")
