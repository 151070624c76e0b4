"""Tokens of questions by day, and sums of the days that are over"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column, has_table

revision = "0064"
down_revision = "0063"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if not has_table("question_days"):
        op.create_table(
            "question_days",
            sa.Column("day", sa.Date(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("key_id", sa.String(), nullable=False),
            sa.Column("model_id", sa.String(), nullable=False),
            sa.Column("source", sa.String(), nullable=False),
            sa.Column("base_model_id", sa.String(), nullable=False),
            sa.Column("requests", sa.BigInteger(), nullable=False),
            sa.Column("input_tokens", sa.BigInteger(), nullable=False),
            sa.Column("output_tokens", sa.BigInteger(), nullable=False),
            sa.Column("cost", sa.BigInteger(), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_question_days_project_id_projects"
            ),
            sa.PrimaryKeyConstraint(
                "day", "project_id", "key_id", "model_id", "source", name="pk_question_days"
            ),
        )
        op.create_index("ix_question_days_project_id_day", "question_days", ["project_id", "day"])
    if not has_table("usage_sums"):
        op.create_table(
            "usage_sums",
            sa.Column("day", sa.Date(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("key_id", sa.String(), nullable=False),
            sa.Column("base_model_id", sa.String(), nullable=False),
            sa.Column("cost", sa.BigInteger(), nullable=False),
            sa.Column("device_seconds", sa.Double(), nullable=False),
            sa.Column("tokens", sa.BigInteger(), nullable=False),
            sa.Column("num_jobs", sa.Integer(), nullable=False),
            sa.Column("num_begun", sa.Integer(), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_usage_sums_project_id_projects"
            ),
            sa.PrimaryKeyConstraint(
                "day", "project_id", "key_id", "base_model_id", name="pk_usage_sums"
            ),
        )
        op.create_index("ix_usage_sums_project_id_day", "usage_sums", ["project_id", "day"])
    if not has_column("installation", "usage_summed_until"):
        op.add_column("installation", sa.Column("usage_summed_until", sa.Date(), nullable=True))


def downgrade() -> None:
    op.drop_column("installation", "usage_summed_until")
    op.drop_table("usage_sums")
    op.drop_table("question_days")
