"""Load the models that somebody asks for, and keep each loaded while it is used."""

import threading

import structlog

from app.inference import claims
from app.models import Engine
from worker.context import WorkerContext
from worker.inference.base_server import BaseServers
from worker.inference.engine_choice import Loading, SharedBase
from worker.inference.engine_run import EngineRun
from worker.operations.handler import PermanentError
from worker.operations.poll_loop import PollLoop

UNUSED_SECONDS = 10.0  # An engine in use does not make room for another.
PATIENT_UNUSED_SECONDS = 120.0  # The same, where only a batch asks for the other.

log = structlog.get_logger()


class EngineHost(PollLoop):
    """The engines of this process, each with a thread that watches it."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context.shutting_down)
        self._context = context
        self._runs: dict[str, EngineRun] = {}
        self._servers = BaseServers(context.settings)
        self._making_room = threading.Lock()

    def join(self) -> None:
        """Wait until all have ended, as they do once the process is shutting down."""
        for run in list(self._runs.values()):
            run.join()

    def _do_next(self) -> bool:
        lease_seconds = self._context.settings.lease.total_seconds()
        with self._context.database.transaction() as session:
            engine = claims.claim(session, self._context.owner, lease_seconds)
        if engine is None:
            return False
        earlier = self._runs.get(engine.model_id)
        # The earlier engine has lost its lease, and its program is about to end.
        if earlier is not None:
            earlier.stop()
        self._runs = {id_: run for id_, run in self._runs.items() if run.is_alive()}
        run = EngineRun(self._context, engine, self._make_room, self._release)
        self._runs[engine.model_id] = run
        run.start()
        return True

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
                    raise PermanentError(
                        "engine_out_of_memory",
                        f"The model needs {needed / 2**20:,.0f} MiB of memory and "
                        f"{available / 2**20:,.0f} MiB are free; no other model here is idle.",
                    )
                for victim in victims:
                    log.info("unloaded to make room", model=victim.model_id)
                    victim.stop()
            run.shared = loading.shared
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
