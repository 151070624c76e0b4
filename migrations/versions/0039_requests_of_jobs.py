"""The request that a job came with, as the log names it"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("jobs", "request_id"):
        op.add_column("jobs", sa.Column("request_id", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "request_id")
