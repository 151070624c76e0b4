"""What a rounded form of a model costs in loss"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_column

revision = "0063"
down_revision = "0062"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("exports", "rounding"):
        json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
        op.add_column("exports", sa.Column("rounding", json, nullable=True))


def downgrade() -> None:
    op.drop_column("exports", "rounding")
