"""What jobs used, by day, and the keys that asked for them"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import has_column, has_table

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

# Of jobs that ran before, what is known: their sums, which go to the day of the newest attempt.
OLDER_JOBS = """
    INSERT INTO usage_days
        (job_id, day, project_id, key_id, base_model_id, cost, device_seconds, tokens)
    SELECT jobs.id, {day}, jobs.project_id, NULL, jobs.base_model_id,
        COALESCE({cost}, 0), jobs.device_seconds, ran.tokens
    FROM jobs JOIN (
        SELECT job_id, MAX(COALESCE(ended_at, created_at)) AS latest,
            COALESCE(SUM(tokens), 0) AS tokens
        FROM attempts GROUP BY job_id
    ) AS ran ON ran.job_id = jobs.id
"""
SPELLED = {
    "sqlite": {
        "day": "DATE(ran.latest)",
        "cost": "CAST(ROUND(JSON_EXTRACT(jobs.progress, '$.cost.accrued') * 10000) AS INTEGER)",
    },
    "postgresql": {
        "day": "CAST(ran.latest AT TIME ZONE 'UTC' AS DATE)",
        "cost": "CAST(ROUND(CAST(jobs.progress -> 'cost' ->> 'accrued' AS NUMERIC) * 10000)"
        " AS BIGINT)",
    },
}


def upgrade() -> None:
    if not has_column("jobs", "key_id"):
        op.add_column("jobs", sa.Column("key_id", sa.String(), nullable=True))
    if has_table("usage_days"):
        return
    op.create_table(
        "usage_days",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("base_model_id", sa.String(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("device_seconds", sa.Double(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_usage_days_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("job_id", "day", name=op.f("pk_usage_days")),
    )
    op.create_index("ix_usage_days_project_id_day", "usage_days", ["project_id", "day"])
    op.create_index("ix_usage_days_day", "usage_days", ["day"])
    op.execute(OLDER_JOBS.format(**SPELLED[op.get_bind().dialect.name]))


def downgrade() -> None:
    op.drop_table("usage_days")
    op.drop_column("jobs", "key_id")
