"""Most that the jobs of an agent's key may cost on a day; null for the other keys"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_column("api_keys", "daily_budget_usd"):
        op.add_column("api_keys", sa.Column("daily_budget_usd", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("api_keys", "daily_budget_usd")
