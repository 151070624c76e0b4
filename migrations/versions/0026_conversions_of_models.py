"""What an import has converted of a base model"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

TABLE = "model_imports"
COLUMN = "conversions"


def upgrade() -> None:
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    op.add_column(TABLE, sa.Column(COLUMN, json, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column(TABLE, COLUMN)
