"""Quotas, limits and shares of projects; expiry and use of keys; priorities of jobs"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("jobs", "priority"):
        _add_columns()
    create_index("ix_jobs_queue", "jobs", ["status", "project_id", "desired", "priority", "id"])


def _add_columns() -> None:
    op.add_column("projects", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("projects", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("max_live_jobs", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True))
    op.add_column("projects", sa.Column("max_device_hours", sa.Double(), nullable=True))
    op.add_column("projects", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
    op.add_column("projects", sa.Column("turn", sa.Double(), server_default="0", nullable=False))
    op.add_column("projects", sa.Column("usage_month", sa.String(), nullable=True))
    op.add_column(
        "projects",
        sa.Column("usage_device_seconds", sa.Double(), server_default="0", nullable=False),
    )
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_index("ix_jobs_queue", "jobs")
    op.drop_column("jobs", "priority")
    for column in ("last_used_at", "expires_at"):
        op.drop_column("api_keys", column)
    for column in (
        "usage_device_seconds",
        "usage_month",
        "turn",
        "weight",
        "max_device_hours",
        "max_storage_bytes",
        "max_live_jobs",
        "requests_per_minute",
        "archived_at",
    ):
        op.drop_column("projects", column)
