"""Several engines of a model, and the workers that load models"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column, has_table

revision = "0068"
down_revision = "0067"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
KEY = "pk_engines"


def upgrade() -> None:
    if not has_column("models", "replicas"):
        replicas = sa.Column("replicas", sa.Integer(), nullable=False, server_default="1")
        op.add_column("models", replicas)
    if not has_column("engines", "declined_by"):
        declined = sa.Column("declined_by", sa.JSON(none_as_null=True), nullable=True)
        op.add_column("engines", declined)
    if not has_column("engines", "replica"):
        replica = sa.Column("replica", sa.Integer(), nullable=False, server_default="0")
        op.add_column("engines", replica)
        # An older version writes rows of replica 0, and so has one for each model.
        _set_key("model_id", "replica")
    if not has_table("serving_workers"):
        op.create_table(
            "serving_workers",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("seen_at", TIME, nullable=False),
            sa.PrimaryKeyConstraint("id", name="pk_serving_workers"),
        )


def downgrade() -> None:
    op.drop_table("serving_workers")
    op.execute("DELETE FROM engines WHERE replica > 0")
    _set_key("model_id")
    op.drop_column("engines", "replica")
    op.drop_column("engines", "declined_by")
    op.drop_column("models", "replicas")


def _set_key(*columns: str) -> None:
    """Change the primary key in one statement, so that the table is never without one."""
    if op.get_context().dialect.name == "postgresql":
        key = f"ADD CONSTRAINT {KEY} PRIMARY KEY ({', '.join(columns)})"
        op.execute(f"ALTER TABLE engines DROP CONSTRAINT {KEY}, {key}")
        return
    with op.batch_alter_table("engines", recreate="always") as batch:
        batch.drop_constraint(KEY, type_="primary")
        batch.create_primary_key(KEY, list(columns))
