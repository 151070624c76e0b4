"""What doctor says of a worker's card"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    op.add_column("workers", sa.Column("diagnosis", json, nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "diagnosis")
