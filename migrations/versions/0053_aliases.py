"""Names that stand for models, each change a version, and the requests that used them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.operations import has_table

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)
EVERYWHERE = sa.text("project_id IS NULL")


def upgrade() -> None:
    if not has_table("aliases"):
        op.create_table(
            "aliases",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=True),
            sa.Column("name", sa.String(), nullable=False),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("targets", JSON, nullable=False),
            sa.Column("key_id", sa.String(), nullable=True),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("replaced_at", TIME, nullable=True),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_aliases_project_id_projects"
            ),
            sa.PrimaryKeyConstraint("id", name="pk_aliases"),
        )
        op.create_index(
            "uq_aliases_project_id_name_version",
            "aliases",
            ["project_id", "name", "version"],
            unique=True,
        )
        op.create_index(
            "uq_aliases_everywhere",
            "aliases",
            ["name", "version"],
            unique=True,
            sqlite_where=EVERYWHERE,
            postgresql_where=EVERYWHERE,
        )
        op.create_index("ix_aliases_name", "aliases", ["name"])
    if not has_table("alias_days"):
        op.create_table(
            "alias_days",
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("name", sa.String(), nullable=False),
            sa.Column("model_id", sa.String(), nullable=False),
            sa.Column("day", sa.Date(), nullable=False),
            sa.Column("requests", sa.BigInteger(), nullable=False),
            sa.Column("errors", sa.BigInteger(), nullable=False),
            sa.Column("milliseconds", sa.BigInteger(), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_alias_days_project_id_projects"
            ),
            sa.PrimaryKeyConstraint("project_id", "name", "model_id", "day", name="pk_alias_days"),
        )


def downgrade() -> None:
    op.drop_table("alias_days")
    op.drop_table("aliases")
