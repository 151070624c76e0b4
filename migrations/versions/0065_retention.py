"""How long checkpoints and unused models stay"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0065"
down_revision = "0064"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMNS = (
    ("projects", sa.Column("checkpoints_kept_days", sa.Integer(), nullable=True)),
    ("projects", sa.Column("models_kept_days", sa.Integer(), nullable=True)),
    ("models", sa.Column("used_at", TIME, nullable=True)),
    ("models", sa.Column("expires_at", TIME, nullable=True)),
    (
        "models",
        sa.Column("is_pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
    ),
    ("jobs", sa.Column("checkpoints_removed_at", TIME, nullable=True)),
)


def upgrade() -> None:
    for table, column in COLUMNS:
        if not has_column(table, column.name):
            op.add_column(table, column)
    create_index("ix_models_base_model_id", "models", ["base_model_id"])
    are_kept = sa.text("checkpoints_removed_at IS NULL")
    create_index(
        "ix_jobs_checkpoints_kept",
        "jobs",
        ["project_id", "finished_at"],
        sqlite_where=are_kept,
        postgresql_where=are_kept,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_checkpoints_kept", "jobs")
    op.drop_index("ix_models_base_model_id", "models")
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column.name)
