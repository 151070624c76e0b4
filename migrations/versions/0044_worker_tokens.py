"""Tokens of workers that see only the API"""

import sqlalchemy as sa
from alembic import op

from app.database import UtcDateTime
from migrations.operations import has_table

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if has_table("worker_tokens"):
        return
    op.create_table(
        "worker_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_ids", sa.JSON(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_worker_tokens"),
        sa.UniqueConstraint("secret_sha256", name="uq_worker_tokens_secret_sha256"),
    )


def downgrade() -> None:
    op.drop_table("worker_tokens")
