"""Answers that their requests asked to store, and the rules of a project that keeps them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_column, has_table

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)
CORRECTED = sa.text("corrected IS NOT NULL")


def upgrade() -> None:
    if not has_column("projects", "answer_storage"):
        op.add_column("projects", sa.Column("answer_storage", JSON, nullable=True))
    if not has_column("projects", "answer_bytes"):
        op.add_column(
            "projects",
            sa.Column("answer_bytes", sa.BigInteger(), server_default="0", nullable=False),
        )
    if not has_column("files", "made_of"):
        op.add_column("files", sa.Column("made_of", JSON, nullable=True))
    if not has_table("stored_answers"):
        op.create_table(
            "stored_answers",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("kind", sa.String(), nullable=False),
            sa.Column("model", sa.String(), nullable=False),
            sa.Column("key_id", sa.String(), nullable=False),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("bytes", sa.BigInteger(), nullable=False),
            sa.Column("document", sa.Text(), nullable=False),
            sa.Column("corrected", sa.Text(), nullable=True),
            sa.Column("question", sa.Text(), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_stored_answers_project_id_projects"
            ),
            sa.PrimaryKeyConstraint("id", name="pk_stored_answers"),
        )
        op.create_index("ix_stored_answers_project_id_id", "stored_answers", ["project_id", "id"])
        op.create_index(
            "ix_stored_answers_project_id_kind_id",
            "stored_answers",
            ["project_id", "kind", "id"],
        )
        op.create_index(
            "ix_stored_answers_project_id_model_id",
            "stored_answers",
            ["project_id", "model", "id"],
        )
        op.create_index(
            "ix_stored_answers_corrected",
            "stored_answers",
            ["project_id", "id"],
            sqlite_where=CORRECTED,
            postgresql_where=CORRECTED,
        )
    if not has_table("stored_answer_metadata"):
        op.create_table(
            "stored_answer_metadata",
            sa.Column("answer_id", sa.String(), nullable=False),
            sa.Column("name", sa.String(), nullable=False),
            sa.Column("value", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.ForeignKeyConstraint(
                ["answer_id"],
                ["stored_answers.id"],
                name="fk_stored_answer_metadata_answer_id_stored_answers",
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint("answer_id", "name", name="pk_stored_answer_metadata"),
        )
        op.create_index(
            "ix_stored_answer_metadata_project_id_name_value_answer_id",
            "stored_answer_metadata",
            ["project_id", "name", "value", "answer_id"],
        )


def downgrade() -> None:
    op.drop_table("stored_answer_metadata")
    op.drop_table("stored_answers")
    op.drop_column("files", "made_of")
    op.drop_column("projects", "answer_bytes")
    op.drop_column("projects", "answer_storage")
