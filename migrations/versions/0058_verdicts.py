"""Verdict of a job's newest evaluation, time and cost of evaluations, and the projects that want
them without asking
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_column

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    if not has_column("jobs", "verdict"):
        op.add_column("jobs", sa.Column("verdict", JSON, nullable=True))
    if not has_column("evaluations", "seconds"):
        op.add_column("evaluations", sa.Column("seconds", sa.Double(), nullable=True))
    if not has_column("evaluations", "cost"):
        op.add_column("evaluations", sa.Column("cost", sa.BigInteger(), nullable=True))
    if not has_column("projects", "evaluate"):
        evaluate = sa.Column("evaluate", sa.Boolean(), nullable=False, server_default=sa.true())
        op.add_column("projects", evaluate)


def downgrade() -> None:
    op.drop_column("projects", "evaluate")
    op.drop_column("evaluations", "cost")
    op.drop_column("evaluations", "seconds")
    op.drop_column("jobs", "verdict")
