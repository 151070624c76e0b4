"""The metrics of ours that an API and a worker export."""

import re
from pathlib import Path

from redis import Redis

from app.base import counters
from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.http.probes import HealthMonitor
from app.metrics.collector import InstallationCollector
from tests.support.schema import migrate_database

METRIC = re.compile(r"\b((?:falqon|process)_[a-z_]+[a-z])\b")


def base_of(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def read_labels(folder: Path) -> dict[str, set[str]]:
    """Return each metric with its labels."""
    settings = Settings(_env_file=None, data_dir=folder)
    database = Database(settings.resolved_database_url)
    migrate_database(database)
    storage = Storage(settings.resolved_storage_url)
    monitor = HealthMonitor(database, storage, storage, Redis.from_url("redis://127.0.0.1:1/0"))
    of_processes = [
        metric
        for metric in vars(counters).values()
        if hasattr(metric, "_labelnames") and hasattr(metric, "describe")
    ]
    labels = {
        family.name: set(metric._labelnames)
        for metric in of_processes
        for family in metric.describe()
    }
    for family in InstallationCollector(database, settings, monitor).collect():
        labels[family.name] = set(family._labelnames)
    database.dispose()
    return labels
