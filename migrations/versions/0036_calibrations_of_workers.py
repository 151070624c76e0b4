"""A new worker measures once what the start, a step and the export of a training take there"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.operations import has_column

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    if not has_column("workers", "calibration"):
        op.add_column("workers", sa.Column("calibration", json, nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "calibration")
