"""Moves of a name to a model that an evaluation finds not worse"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_column, has_table

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    if not has_table("alias_switches"):
        op.create_table(
            "alias_switches",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("alias", sa.String(), nullable=False),
            sa.Column("alias_version", sa.Integer(), nullable=False),
            sa.Column("model_id", sa.String(), nullable=False),
            sa.Column("job_id", sa.String(), nullable=False),
            sa.Column("evaluation_id", sa.String(), nullable=True),
            sa.Column("canary_percent", sa.Integer(), nullable=True),
            sa.Column("canary_start", JSON, nullable=True),
            sa.Column("status", sa.String(), nullable=False),
            sa.Column("reason", sa.String(), nullable=True),
            sa.Column("key_id", sa.String(), nullable=True),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("ended_at", TIME, nullable=True),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_alias_switches_project_id_projects"
            ),
            sa.PrimaryKeyConstraint("id", name="pk_alias_switches"),
        )
        op.create_index("ix_alias_switches_status", "alias_switches", ["status"])
        op.create_index("ix_alias_switches_evaluation_id", "alias_switches", ["evaluation_id"])
        op.create_index(
            "ix_alias_switches_project_id_alias_id",
            "alias_switches",
            ["project_id", "alias", "id"],
        )
    if not has_column("aliases", "switch_id"):
        op.add_column("aliases", sa.Column("switch_id", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("aliases", "switch_id")
    op.drop_table("alias_switches")
