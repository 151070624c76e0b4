"""One engine from its claim to its end: load the model, answer, renew the lease, unload."""

import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.base.database import DATABASE_UNAVAILABLE_ERRORS
from app.catalogue import repository as catalogue
from app.inference import claims
from app.models import Engine, EngineState
from falqon_core.contract.errors import UserError
from falqon_core.contract.gguf_support import engine_refusal
from worker.context import WorkerContext
from worker.inference.base_server import BaseServer
from worker.inference.engine_choice import Loading, prepare
from worker.inference.engine_process import EngineEnded, EngineProcess
from worker.inference.llama_cpp import ADAPTER_REFUSAL
from worker.inference.metrics import EngineMetrics, Figures
from worker.inference.progress import ProgressWatch
from worker.machine.subprocesses import ToolFailed
from worker.models.model_cache import BaseMissing, ModelCache
from worker.operations.handler import OperationAbandoned, PermanentError
from worker.operations.polled_lease import PolledLease

ENGINE_CHECK_SECONDS = 0.2
# Failures that another worker, with another card or more memory, may not have.
OF_THIS_MACHINE = ("engine_out_of_memory", "engine_not_available", "adapter_rank_too_high")

log = structlog.get_logger()


class EngineRun:
    """A thread and the program that it watches; neither outlives the other."""

    def __init__(
        self,
        context: WorkerContext,
        engine: Engine,
        make_room: Callable[["EngineRun", Loading], None],
        release: Callable[["EngineRun"], None],
        decline: Callable[[Session, Engine, PermanentError], None],
    ) -> None:
        self.model_id = engine.model_id
        self.engine = engine
        self.shared: Path | None = None  # The file whose pages it has mapped.
        self.needed_bytes = 0
        self.server: BaseServer | None = None  # The program that others answer from, too.
        self._context = context
        self._settings = context.settings
        self._database = context.database
        self._make_room = make_room
        self._decline = decline
        self._release_server = release
        self._stopping = threading.Event()
        self._lease = PolledLease(context, self._renew, model=self.model_id)
        self._figures = Figures()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for that."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._serve()
        except OperationAbandoned:
            self._release()
        except SQLAlchemyError as error:
            # The lease runs out, and others load the model.
            log.warning("engine given up", model=self.model_id, error=str(error))
        except Exception as error:  # the top-level handler of this thread
            log.warning("engine failed", model=self.model_id, exc_info=True)
            self._fail(_failure_of(error))

    def _serve(self) -> None:
        """Answer until nobody asks any more."""
        with ModelCache.of(self._context, self._beat) as cache:
            loading = self._prepare(cache)
            self._make_room(self, loading)
            try:
                if self.server is not None:
                    self._answer_from(self.server, loading)
                else:
                    self._answer(loading)
            finally:
                self._release_server(self)
        log.info("model unloaded", model=self.model_id)

    def _prepare(self, cache: ModelCache) -> Loading:
        with self._database.read() as session:
            model = catalogue.find_in_any_project(session, self.model_id)
            has_adapters = catalogue.has_adapters(session, self.model_id)
        if model is None or model.deleted_at is not None:
            raise PermanentError("model_not_found", "The model has been deleted meanwhile.")
        return prepare(model, cache, self._settings, has_adapters=has_adapters)

    def _answer(self, loading: Loading) -> None:
        with (
            tempfile.TemporaryFile() as engine_log,
            EngineProcess(loading.command, self.model_id, self._settings, engine_log) as process,
            process.output,
        ):
            process.wait_for_address(self._beat)
            self._answer_until_idle(process, loading)

    def _answer_from(self, server: BaseServer, loading: Loading) -> None:
        server.wait_for_address(self._beat)
        with server.adapter(self.model_id, loading.adapter):
            self._answer_until_idle(server, loading)

    def _answer_until_idle(self, program: EngineProcess | BaseServer, loading: Loading) -> None:
        ready = {"address": program.address, "token": program.token}
        self._write(state=EngineState.READY, max_answers=loading.max_answers, **ready)
        log.info("model loaded", model=self.model_id)
        metrics = EngineMetrics(program.pid, program.address, program.token)
        self._figures = self._read(metrics, loading)
        watch = ProgressWatch(metrics, loading.needed_bytes)
        try:
            while not self._is_idle(metrics, watch, loading):
                program.check_alive(ENGINE_CHECK_SECONDS)
        except OperationAbandoned:
            # A caller may notice first that the engine has ended; the log still says why.
            program.check_alive(0)
            raise

    def _read(self, metrics: EngineMetrics, loading: Loading) -> Figures:
        """Return the figures of the program; where several engines answer from it, for the one
        that came first.
        """
        if self.server is None or self.server.engines[0] == self.model_id:
            return metrics.read()
        return Figures(loading.adapter_bytes)

    def _is_idle(self, metrics: EngineMetrics, watch: ProgressWatch, loading: Loading) -> bool:
        """Return whether the row has gone for want of use; asked when the lease is renewed. Raises
        `EngineEnded` for an engine that makes no progress.
        """
        is_due = self._lease.is_due
        if is_due:
            self._figures = self._read(metrics, loading)
            watch.check()
        self._beat()
        if not is_due:
            return False
        idle_seconds = self._settings.engine_idle.total_seconds()
        try:
            with self._database.transaction() as session:
                return claims.unload_idle(session, self.engine, idle_seconds)
        except DATABASE_UNAVAILABLE_ERRORS:  # the next beat says so
            return False

    def _beat(self) -> None:
        """Renew the lease when that is due. Raises `OperationAbandoned`."""
        if self._stopping.is_set() or self._context.shutting_down.is_set():
            raise OperationAbandoned
        self._lease.renew_when_due()

    def _renew(self, session: Session, lease_seconds: float) -> None:
        if not claims.renew(session, self.engine, lease_seconds, **asdict(self._figures)):
            raise OperationAbandoned

    def _write(self, **values: object) -> None:
        with self._database.transaction() as session:
            if not claims.write(session, self.engine, **values):
                raise OperationAbandoned

    def _release(self) -> None:
        """Leave the model to another worker where it is to stay loaded and this one ends."""
        with self._database.transaction() as session:
            is_leaving = self._context.shutting_down.is_set()
            if not (is_leaving and claims.release(session, self.engine)):
                claims.unload(session, self.engine)

    def _fail(self, failure: PermanentError) -> None:
        with self._database.transaction() as session:
            if failure.code in OF_THIS_MACHINE:
                self._decline(session, self.engine, failure)
            else:
                claims.fail(session, self.engine, failure.code, failure.message)


def _failure_of(error: Exception) -> PermanentError:
    """Return what whoever asks is to read."""
    match error:
        case PermanentError():
            return error
        case BaseMissing():
            return PermanentError("model_not_found", str(error))
        case ToolFailed():
            return PermanentError("engine_not_available", engine_refusal(error.failure.message))
        case UserError():
            return PermanentError("engine_not_available", engine_refusal(str(error)))
        case EngineEnded() if ADAPTER_REFUSAL in str(error):
            reason = str(error).partition(ADAPTER_REFUSAL)[2].partition("\n")[0]
            return PermanentError(
                "adapter_not_loadable",
                f"The adapter is damaged, or does not belong on its base: {reason}.",
            )
    return PermanentError("engine_failed", "The engine has ended; the worker's log says why.")
