"""Engines that only batches have asked for"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0062"
down_revision = "0061"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("engines", "is_patient"):
        patient = sa.Column("is_patient", sa.Boolean(), nullable=False, server_default=sa.false())
        op.add_column("engines", patient)


def downgrade() -> None:
    op.drop_column("engines", "is_patient")
