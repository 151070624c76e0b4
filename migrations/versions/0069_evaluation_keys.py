"""The key that asked for an evaluation"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0069"
down_revision = "0068"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("evaluations", "key_id"):
        op.add_column("evaluations", sa.Column("key_id", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("evaluations", "key_id")
