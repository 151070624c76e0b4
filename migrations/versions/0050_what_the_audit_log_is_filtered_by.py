"""The audit log is filtered by a key, a type or a resource from an index of each"""

from alembic import op

from migrations.operations import create_index

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None

COLUMNS = ("key_id", "event_type", "resource_id")


def upgrade() -> None:
    for column in COLUMNS:
        create_index(f"ix_audit_logs_{column}_id", "audit_logs", [column, "id"])


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_index(f"ix_audit_logs_{column}_id", "audit_logs")
