"""Load the models that somebody asks for, and keep each loaded while it is used."""

import threading
import time
from collections.abc import Callable
from functools import cache

import structlog
from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.catalogue.repository import ADAPTER
from app.inference import claims
from app.inference.claims import WaitingEngine
from app.models import Engine, Model
from worker.context import WorkerContext
from worker.inference.base_server import BaseServers
from worker.inference.engine_choice import Loading, SharedBase, least_bytes
from worker.inference.engine_run import EngineRun
from worker.inference.memory import available_gpu_bytes
from worker.operations.handler import PermanentError
from worker.operations.poll_loop import PollLoop

UNUSED_SECONDS = 10.0  # An engine in use does not make room for another.
# The same for an engine that takes no place of a model just in use (`claims.is_patient`).
PATIENT_UNUSED_SECONDS = 120.0
LIVE_SECONDS = 30.0  # A worker that was not seen for so long, or for some polls, is dead.
LIVE_POLLS = 3
SEEN_EVERY_SECONDS = 5.0
MAX_REMEMBERED = 1_000  # Models that this worker has declined.
OUT_OF_MEMORY = "engine_out_of_memory"
HELD = "replica_on_worker"

log = structlog.get_logger()


class EngineHost(PollLoop):
    """The engines of this process, each with a thread that watches it."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context.shutting_down)
        self._context = context
        self._runs: dict[str, EngineRun] = {}
        self._servers = BaseServers(context.settings)
        self._making_room = threading.Lock()
        self._noted_at: float | None = None
        # By model; each counts as long as its row says that this worker has declined it.
        self._declined: dict[str, PermanentError] = {}
        self._known_bytes: dict[str, int] = {}

    def join(self) -> None:
        """Wait until all have ended, as they do once the process is shutting down."""
        for run in list(self._runs.values()):
            run.join()
        try:
            with self._context.database.transaction() as session:
                claims.forget_worker(session, self._context.owner)
        except DATABASE_UNAVAILABLE_ERRORS as error:  # others find it silent
            log.warning("a worker was not signed off", error=str(error))

    def _do_next(self) -> bool:
        self._note_worker()
        owner = self._context.owner
        idle_seconds = self._context.settings.engine_idle.total_seconds()
        with self._context.database.read() as session:
            waiting = claims.list_waiting(session, owner, idle_seconds)
        gpu_bytes = cache(available_gpu_bytes)
        for each in waiting:
            if self._is_declined(each):
                continue
            obstacle = self._obstacle_of(each, gpu_bytes)
            with self._context.database.transaction() as session:
                if obstacle is not None:
                    self._decline(session, each.engine, obstacle)
                    continue
                lease_seconds = self._context.settings.lease.total_seconds()
                engine = claims.claim(session, each.engine, owner, lease_seconds)
            if engine is not None:
                self._start(engine)
                return True
        return False

    def _note_worker(self) -> None:
        now = time.monotonic()
        if self._noted_at is None or now > self._noted_at + SEEN_EVERY_SECONDS:
            with self._context.database.transaction() as session:
                claims.note_worker(session, self._context.owner)
            self._noted_at = now

    def _is_declined(self, waiting: WaitingEngine) -> bool:
        """Return whether this worker has said that it does not load an engine, for a reason that
        still holds. Memory may be free by now.
        """
        declined = self._declined.get(waiting.model.id)
        if declined is None or self._context.owner not in (waiting.engine.declined_by or ()):
            return False
        return waiting.is_held if declined.code == HELD else declined.code != OUT_OF_MEMORY

    def _obstacle_of(
        self, waiting: WaitingEngine, gpu_bytes: Callable[[], int | None]
    ) -> PermanentError | None:
        """Return why this worker does not load an engine, as far as it knows beforehand."""
        if waiting.is_held:
            return PermanentError(
                HELD,
                "A worker loads a model once, and each that could has it already: another engine "
                "takes another cpu worker.",
            )
        if self._has_base_of(waiting.model):
            return None
        if (least := least_bytes(waiting.model, gpu_bytes)) is None:
            return None
        needed, free = least
        if self._context.owner in (waiting.engine.declined_by or ()):
            needed = max(needed, self._known_bytes.get(waiting.model.id, 0))
        victims = self._idle(waiting.engine)
        if needed <= free + sum(run.needed_bytes for run in victims):
            return None
        return _out_of_memory(needed, free)

    def _has_base_of(self, model: Model) -> bool:
        """Return whether a program here answers with the model, or with the base that it is on."""
        bases = {run.server.base.model_id for run in self._runs.values() if run.server is not None}
        return model.id in bases or (model.format == ADAPTER and model.base_model_id in bases)

    def _decline(self, session: Session, engine: Engine, obstacle: PermanentError) -> None:
        settings = self._context.settings
        live_seconds = max(LIVE_SECONDS, LIVE_POLLS * settings.poll.total_seconds())
        if len(self._declined) >= MAX_REMEMBERED:
            self._declined.clear()
            self._known_bytes.clear()
        self._declined[engine.model_id] = obstacle
        error = (obstacle.code, obstacle.message)
        claims.decline(session, engine, self._context.owner, *error, live_seconds)

    def _start(self, engine: Engine) -> None:
        earlier = self._runs.get(engine.model_id)
        # The earlier engine has lost its lease, and its program is about to end.
        if earlier is not None:
            earlier.stop()
        self._runs = {id_: run for id_, run in self._runs.items() if run.is_alive()}
        callbacks = (self._make_room, self._release, self._decline)
        run = EngineRun(self._context, engine, *callbacks)
        self._runs[engine.model_id] = run
        run.start()

    def _make_room(self, run: EngineRun, loading: Loading) -> None:
        """Unload what was used least recently until the memory suffices, and take it.

        Raises `PermanentError` where that is not enough.
        """
        with self._making_room:
            if loading.base is not None:
                self._free_place(run.engine, loading.base)
            while (available := loading.available_bytes()) < (needed := self._needed(loading)):
                victims = self._least_recently_used(run.engine)
                if not victims:
                    self._known_bytes[run.model_id] = needed
                    raise _out_of_memory(needed, available)
                for victim in victims:
                    log.info("unloaded to make room", model=victim.model_id)
                    victim.stop()
            run.shared = loading.shared
            run.needed_bytes = needed
            if loading.base is not None:
                run.server = self._servers.hold(loading, loading.base, run.model_id)

    def _release(self, run: EngineRun) -> None:
        """Release the program that an engine answered from with others."""
        if run.server is not None:
            self._servers.release(run.server, run.model_id)

    def _needed(self, loading: Loading) -> int:
        """Return the bytes that loading takes beside what another engine has loaded or mapped."""
        if loading.base is not None and self._servers.find(loading.base) is not None:
            return 0
        is_mapped = loading.shared is not None and any(
            run.shared == loading.shared and run.is_alive() for run in list(self._runs.values())
        )
        return loading.needed_bytes - (loading.shared_bytes if is_mapped else 0)

    def _least_recently_used(self, engine: Engine) -> list[EngineRun]:
        """Return the engines to unload for another one: all that answer from one program."""
        idle = self._idle(engine)
        for run in idle:
            group = [run]
            if run.server is not None:
                runs = list(self._runs.values())
                group = [each for each in runs if each.server is run.server and each.is_alive()]
            if all(each in idle for each in group):
                return group
        return []

    def _free_place(self, engine: Engine, base: SharedBase) -> None:
        """Unload an adapter where a program has as many as it takes, and one of them is idle."""
        full = self._servers.find(base, is_full=True)
        if full is None or self._servers.find(base) is not None:
            return
        victim = next((run for run in self._idle(engine) if run.server is full), None)
        if victim is not None:
            victim.stop()

    def _idle(self, engine: Engine) -> list[EngineRun]:
        """Return the engines that another one may end, the least recently used first."""
        with self._context.database.read() as session:
            is_patient = claims.is_patient(session, engine)
            seconds = PATIENT_UNUSED_SECONDS if is_patient else UNUSED_SECONDS
            model_ids = claims.idle_engines(session, self._context.owner, seconds)
        runs = [self._runs.get(model_id) for model_id in model_ids]
        return [run for run in runs if run is not None and run.is_alive()]


def _out_of_memory(needed: int, available: int) -> PermanentError:
    return PermanentError(
        OUT_OF_MEMORY,
        f"The model needs {needed / 2**20:,.0f} MiB of memory and "
        f"{available / 2**20:,.0f} MiB are free; no other model here is idle.",
    )
