"""Number of answers that an engine gives at once; null where an older worker has loaded it"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("engines", "max_answers"):
        op.add_column("engines", sa.Column("max_answers", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("engines", "max_answers")
