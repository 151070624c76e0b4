"""SHA-256 of every block of an artifact"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("block_sha256", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("artifacts", "block_sha256")
