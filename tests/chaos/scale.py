"""How much of everything: what every run of the suite affords, and what a release has to survive (`make chaos`)."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    kills: int
    ghosts: int
    wipes: int  # of Redis
    half_open_links: int
    postgres_restarts: int
    postgres_outage_seconds: float
    storage_outage_seconds: float
    jobs_in_storage_outage: int  # that wait, beside three that run
    full_disks: int
    torn_checkpoints: int
    state_machine_steps: int
    wishes: int  # to cancel or pause
    real_kills: int  # of the real trainer, and as many of its worker
    api_kills: int
    mixed_load_seconds: float
    mixed_load_kill_every: float


EVERY_RUN = Scale(
    kills=50,
    ghosts=10,
    wipes=5,
    half_open_links=2,
    postgres_restarts=3,
    postgres_outage_seconds=4,
    storage_outage_seconds=0,
    jobs_in_storage_outage=0,
    full_disks=10,
    torn_checkpoints=30,
    state_machine_steps=2_000,
    wishes=50,
    real_kills=1,
    api_kills=10,
    mixed_load_seconds=20,
    mixed_load_kill_every=4,
)
RELEASE = Scale(
    kills=500,
    ghosts=100,
    wipes=30,
    half_open_links=10,
    postgres_restarts=30,
    postgres_outage_seconds=30,
    storage_outage_seconds=300,
    jobs_in_storage_outage=20,
    full_disks=60,
    torn_checkpoints=300,
    state_machine_steps=20_000,
    wishes=500,
    real_kills=20,
    api_kills=300,
    mixed_load_seconds=3_600,
    mixed_load_kill_every=60,
)
SCALE = {"": EVERY_RUN, "release": RELEASE}[os.environ.get("CHAOS", "")]
