"""How many of an attempt's events are written; rows found by the key of their bytes"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEYS = {
    "files": "storage_key",
    "artifacts": "storage_key",
    "upload_parts": "storage_key",
    "checkpoints": "storage_prefix",
}


def upgrade() -> None:
    op.add_column(
        "attempts", sa.Column("relayed", sa.Integer(), nullable=False, server_default="0")
    )
    for table, column in KEYS.items():
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)


def downgrade() -> None:
    for table, column in KEYS.items():
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    op.drop_column("attempts", "relayed")
