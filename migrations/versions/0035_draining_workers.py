"""Workers that are to take no more jobs"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("workers", "draining"):
        op.add_column("workers", sa.Column("draining", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "draining")
