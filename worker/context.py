"""The parts that everything in a worker process uses."""

import threading
from dataclasses import dataclass

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """`owner` names this process in its claims; `shutting_down` is set once it should end."""

    settings: Settings
    database: Database
    storage: Storage
    owner: str
    shutting_down: threading.Event
