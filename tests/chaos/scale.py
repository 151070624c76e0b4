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
    full_disks: int
    torn_checkpoints: int
    state_machine_steps: int
    min_examples: int  # of the state machine, whose first one is always the same
    stop_requests: int  # to cancel or pause
    api_kills: int
    serving_kills: int  # of engine, worker and API
    asking_streams: int
    adapters: int  # over one base
    adapter_kills: int  # of engines and worker
    adapter_streams: int
    revisions: int  # of the schema, the newest, under rows


EVERY_RUN = Scale(
    kills=6,
    jobs_at_once=6,
    zombies=3,
    wipes=2,
    half_open_links=2,
    postgres_restarts=2,
    postgres_outage_seconds=2,
    full_disks=1,
    torn_checkpoints=4,
    state_machine_steps=500,
    min_examples=10,
    stop_requests=10,
    api_kills=1,
    serving_kills=3,
    asking_streams=4,
    adapters=3,
    adapter_kills=3,
    adapter_streams=6,
    revisions=5,
)
RELEASE = Scale(
    kills=500,
    jobs_at_once=20,
    zombies=100,
    wipes=30,
    half_open_links=10,
    postgres_restarts=30,
    postgres_outage_seconds=30,
    full_disks=60,
    torn_checkpoints=300,
    state_machine_steps=20_000,
    min_examples=20,
    stop_requests=500,
    api_kills=300,
    serving_kills=30,
    asking_streams=50,
    adapters=20,
    adapter_kills=10,
    adapter_streams=50,
    revisions=1_000,  # all of them
)
SCALE = {"": EVERY_RUN, "release": RELEASE}[os.environ.get("CHAOS", "")]

of_a_release = pytest.mark.skipif(SCALE is not RELEASE, reason="make chaos runs it")


def every_run_on(database: str) -> pytest.MarkDecorator:
    """Mark tests that every run meets on one database: a release runs them on both."""
    databases = ["sqlite", "postgres"] if SCALE is RELEASE else [database]
    return pytest.mark.parametrize("database_url", databases, indirect=True)
