"""Persons who sign in through an identity provider, and the scopes of its groups in projects"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column, has_table

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    if not has_table("users"):
        op.create_table(
            "users",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("issuer", sa.String(), nullable=False),
            sa.Column("subject", sa.String(), nullable=False),
            sa.Column("email", sa.String(), nullable=True),
            sa.Column("created_at", TIME, nullable=False),
            sa.Column("signed_in_at", TIME, nullable=False),
            sa.Column("removed_at", TIME, nullable=True),
            sa.PrimaryKeyConstraint("id", name="pk_users"),
        )
        op.create_index("uq_users_issuer_subject", "users", ["issuer", "subject"], unique=True)
    if not has_table("group_grants"):
        op.create_table(
            "group_grants",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("group_name", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("scope", sa.String(), nullable=False),
            sa.Column("created_at", TIME, nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name="fk_group_grants_project_id_projects"
            ),
            sa.PrimaryKeyConstraint("id", name="pk_group_grants"),
        )
        op.create_index(
            "uq_group_grants_group_name_project_id",
            "group_grants",
            ["group_name", "project_id"],
            unique=True,
        )
    for table, column in (
        ("api_keys", "user_id"),
        ("api_keys", "sign_in_id"),
        ("audit_logs", "user_id"),
    ):
        if not has_column(table, column):
            op.add_column(table, sa.Column(column, sa.String(), nullable=True))
    create_index("ix_api_keys_user_id", "api_keys", ["user_id"])
    create_index("ix_api_keys_sign_in_id", "api_keys", ["sign_in_id"])
    create_index("ix_audit_logs_user_id_id", "audit_logs", ["user_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_audit_logs_user_id_id", "audit_logs")
    op.drop_column("audit_logs", "user_id")
    op.drop_index("ix_api_keys_sign_in_id", "api_keys")
    op.drop_index("ix_api_keys_user_id", "api_keys")
    op.drop_column("api_keys", "sign_in_id")
    op.drop_column("api_keys", "user_id")
    op.drop_table("group_grants")
    op.drop_table("users")
