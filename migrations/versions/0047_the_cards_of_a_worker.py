"""The cards that a worker may use"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("workers", "cards"):
        op.add_column("workers", sa.Column("cards", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "cards")
