"""Dataset statistics are of a chat template's variables; those that tell of a refusal that is no
more are made again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TABLE = "dataset_statistics"
COLUMN = "chat_template_kwargs"
REFUSAL = "%renders this turn differently inside the whole chat%"
AGAIN = "status = 'in_progress', attempts = 0"
EMPTY = ("error_code", "error_message", "lease_expires_at", "notified_at", "result")


def upgrade() -> None:
    op.add_column(TABLE, sa.Column(COLUMN, sa.String(), nullable=False, server_default=""))
    emptied = ", ".join(f"{name} = NULL" for name in EMPTY)
    statement = sa.text(
        f"UPDATE {TABLE} SET {AGAIN}, {emptied} "
        "WHERE error_message LIKE :refusal OR CAST(result AS TEXT) LIKE :refusal"
    )
    op.execute(statement.bindparams(refusal=REFUSAL))


def downgrade() -> None:
    op.drop_column(TABLE, COLUMN)
