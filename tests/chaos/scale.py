"""How much of everything: what every run of the suite affords, and what a release has to survive
(`make chaos`).
"""

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Scale:
    kills: int
    jobs_at_once: int  # under kills
    zombies: int
    wipes: int  # of Redis
    half_open_links: int
    postgres_restarts: int
    postgres_outage_seconds: float
    storage_outage_seconds: float
    jobs_in_storage_outage: int  # that wait, beside three that run
    full_disks: int
    torn_checkpoints: int
    state_machine_steps: int
    min_examples: int  # of the state machine, whose first one is always the same
    stop_requests: int  # to cancel or pause
    real_kills: int  # of the real trainer, and as many of its worker
    api_kills: int
    serving_kills: int  # of engine, worker and API
    asking_streams: int
    mixed_load_seconds: float
    mixed_load_kill_every: float
    mixed_load_live_jobs: int  # the users' quota: what is left for the worker when the load ends


EVERY_RUN = Scale(
    kills=10,
    jobs_at_once=8,
    zombies=3,
    wipes=3,
    half_open_links=2,
    postgres_restarts=2,
    postgres_outage_seconds=3,
    storage_outage_seconds=0,
    jobs_in_storage_outage=0,
    full_disks=3,
    torn_checkpoints=8,
    state_machine_steps=500,
    min_examples=10,
    stop_requests=15,
    real_kills=1,
    api_kills=3,
    serving_kills=3,
    asking_streams=8,
    mixed_load_seconds=10,
    mixed_load_kill_every=3,
    mixed_load_live_jobs=5,
)
RELEASE = Scale(
    kills=500,
    jobs_at_once=20,
    zombies=100,
    wipes=30,
    half_open_links=10,
    postgres_restarts=30,
    postgres_outage_seconds=30,
    storage_outage_seconds=300,
    jobs_in_storage_outage=20,
    full_disks=60,
    torn_checkpoints=300,
    state_machine_steps=20_000,
    min_examples=20,
    stop_requests=500,
    real_kills=20,
    api_kills=300,
    serving_kills=30,
    asking_streams=50,
    mixed_load_seconds=3_600,
    mixed_load_kill_every=60,
    mixed_load_live_jobs=40,  # about two minutes of work
)
SCALE = {"": EVERY_RUN, "release": RELEASE}[os.environ.get("CHAOS", "")]


def every_run_on(database: str) -> pytest.MarkDecorator:
    """Mark tests that every run meets on one database: a release runs them on both."""
    databases = ["sqlite", "postgres"] if SCALE is RELEASE else [database]
    return pytest.mark.parametrize("database_url", databases, indirect=True)
