"""Answers of the models of an evaluation to each of its rows"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_table

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if has_table("evaluation_answers"):
        return
    op.create_table(
        "evaluation_answers",
        sa.Column("evaluation_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("base_answer", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
            name="fk_evaluation_answers_evaluation_id_evaluations",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "number", name="pk_evaluation_answers"),
    )


def downgrade() -> None:
    op.drop_table("evaluation_answers")
