"""The trace of the request that a job came with"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("jobs", "traceparent"):
        op.add_column("jobs", sa.Column("traceparent", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "traceparent")
