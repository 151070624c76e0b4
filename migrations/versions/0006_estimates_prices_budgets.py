"""What attempts measured, prices of this installation, budgets, and who could execute jobs"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KIND = ["base_model_id", "method", "device", "num_devices", "created_at"]


def upgrade() -> None:
    op.add_column("jobs", sa.Column("actual", JSON, nullable=True))
    op.add_column("jobs", sa.Column("budget", JSON, nullable=True))
    op.add_column(
        "jobs", sa.Column("execution_seconds", sa.Double(), nullable=False, server_default="0")
    )
    op.add_column("attempts", sa.Column("base_model_id", sa.String(), nullable=True))
    op.add_column("attempts", sa.Column("method", sa.String(), nullable=True))
    op.add_column("attempts", sa.Column("tokens", sa.BigInteger(), nullable=True))
    op.add_column("attempts", sa.Column("train_seconds", sa.Double(), nullable=True))
    op.add_column("attempts", sa.Column("overhead_seconds", sa.Double(), nullable=True))
    op.create_index("ix_attempts_kind", "attempts", KIND)
    op.create_table(
        "price_overrides",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("usd_per_device_hour", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_price_overrides")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("num_devices", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_table("price_overrides")
    op.drop_index("ix_attempts_kind", "attempts")
    # Not in batch mode: SQLite would copy the table and drop the old one, and with it, by cascade,
    # the events of every job.
    for table, names in (
        ("attempts", ("overhead_seconds", "train_seconds", "tokens", "method", "base_model_id")),
        ("jobs", ("execution_seconds", "budget", "actual")),
    ):
        for name in names:
            op.drop_column(table, name)
