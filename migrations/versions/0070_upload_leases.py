"""Leases of the calls that make files of uploads"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0070"
down_revision = "0069"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("uploads", "attempt"):
        attempt = sa.Column("attempt", sa.Integer(), nullable=False, server_default="0")
        op.add_column("uploads", attempt)
    if not has_column("uploads", "lease_expires_at"):
        expires_at = sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True)
        op.add_column("uploads", expires_at)


def downgrade() -> None:
    op.drop_column("uploads", "lease_expires_at")
    op.drop_column("uploads", "attempt")
