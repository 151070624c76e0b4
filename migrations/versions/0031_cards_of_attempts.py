"""The cards that an attempt has"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("attempts", "cards"):
        op.add_column("attempts", sa.Column("cards", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "cards")
