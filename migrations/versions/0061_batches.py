"""Batches of requests to models, and the answers that their files will hold"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_table

revision = "0061"
down_revision = "0060"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    if not has_table("batches"):
        op.create_table(
            "batches",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("status", sa.String(), nullable=False),
            sa.Column("attempts", sa.Integer(), nullable=False),
            sa.Column("error_code", sa.String(), nullable=True),
            sa.Column("error_message", sa.String(), nullable=True),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("notified_at", TIME, nullable=True),
            sa.Column("lease_expires_at", TIME, nullable=True),
            sa.Column("key_id", sa.String(), nullable=False),
            sa.Column("idempotency_key", sa.String(), nullable=True),
            sa.Column("endpoint", sa.String(), nullable=False),
            sa.Column("input_file_id", sa.String(), nullable=False),
            sa.Column("metadata", JSON, nullable=True),
            sa.Column("output_lifetime_seconds", sa.Integer(), nullable=True),
            sa.Column("model_id", sa.String(), nullable=True),
            sa.Column("num_lines", sa.Integer(), nullable=False),
            sa.Column("num_completed", sa.Integer(), nullable=False),
            sa.Column("num_failed", sa.Integer(), nullable=False),
            sa.Column("input_tokens", sa.BigInteger(), nullable=False),
            sa.Column("output_tokens", sa.BigInteger(), nullable=False),
            sa.Column("answer_bytes", sa.BigInteger(), nullable=False),
            sa.Column("seconds", sa.Double(), nullable=False),
            sa.Column("cost", sa.BigInteger(), nullable=True),
            sa.Column("useful_attempt", sa.Integer(), nullable=False),
            sa.Column("faults", JSON, nullable=True),
            sa.Column("ending", sa.String(), nullable=True),
            sa.Column("output_file_id", sa.String(), nullable=True),
            sa.Column("error_file_id", sa.String(), nullable=True),
            sa.Column("expires_at", TIME, nullable=False),
            sa.Column("in_progress_at", TIME, nullable=True),
            sa.Column("cancelling_at", TIME, nullable=True),
            sa.Column("finalizing_at", TIME, nullable=True),
            sa.Column("ended_at", TIME, nullable=True),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_batches_project_id_projects"
            ),
            sa.ForeignKeyConstraint(
                ["input_file_id"], ["files.id"], name="fk_batches_input_file_id_files"
            ),
            sa.PrimaryKeyConstraint("id", name="pk_batches"),
        )
        op.create_index("ix_batches_status", "batches", ["status"])
        op.create_index("ix_batches_project_id_id", "batches", ["project_id", "id"])
        op.create_index("ix_batches_input_file_id", "batches", ["input_file_id"])
        op.create_index(
            "uq_batches_project_id_idempotency_key",
            "batches",
            ["project_id", "idempotency_key"],
            unique=True,
        )
    if not has_table("batch_answers"):
        op.create_table(
            "batch_answers",
            sa.Column("batch_id", sa.String(), nullable=False),
            sa.Column("line", sa.Integer(), nullable=False),
            sa.Column("has_failed", sa.Boolean(), nullable=False),
            sa.Column("content", sa.Text(), nullable=False),
            sa.ForeignKeyConstraint(
                ["batch_id"],
                ["batches.id"],
                name="fk_batch_answers_batch_id_batches",
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint("batch_id", "line", name="pk_batch_answers"),
        )


def downgrade() -> None:
    op.drop_table("batch_answers")
    op.drop_table("batches")
