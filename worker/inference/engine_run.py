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
from app.models import Engine, EngineState, Model
from falqon_core.contract.errors import UserError
from falqon_core.contract.formats import engine_refusal
from worker.context import WorkerContext
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

log = structlog.get_logger()


class EngineRun:
    """A thread and the program that it watches; neither outlives the other."""

    def __init__(
        self, context: WorkerContext, engine: Engine, make_room: Callable[[Engine, Loading], None]
    ) -> None:
        self.model_id = engine.model_id
        self.shared: Path | None = None  # The file whose pages it has mapped.
        self._context = context
        self._settings = context.settings
        self._database = context.database
        self._engine = engine
        self._make_room = make_room
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
            loading = prepare(self._model(), cache, self._settings)
            self._make_room(self._engine, loading)
            self.shared = loading.shared
            self._answer(loading)

    def _answer(self, loading: Loading) -> None:
        with (
            tempfile.TemporaryFile() as engine_log,
            EngineProcess(loading.command, self.model_id, self._settings, engine_log) as process,
            process.output,
        ):
            address = process.wait_for_address(self._beat)
            ready = {"address": address, "token": process.token}
            self._write(state=EngineState.READY, max_answers=loading.max_answers, **ready)
            log.info("model loaded", model=self.model_id)
            metrics = EngineMetrics(process.pid, address, process.token)
            self._figures = metrics.read()
            watch = ProgressWatch(metrics, loading.needed_bytes)
            try:
                while not self._is_idle(metrics, watch):
                    process.check_alive(ENGINE_CHECK_SECONDS)
            except OperationAbandoned:
                # A caller may notice first that the engine has ended; the log still says why.
                process.check_alive(0)
                raise
        log.info("model unloaded", model=self.model_id)

    def _model(self) -> Model:
        with self._database.read() as session:
            model = catalogue.find_in_any_project(session, self.model_id)
        if model is None or model.deleted_at is not None:
            raise PermanentError("model_not_found", "The model has been deleted meanwhile.")
        return model

    def _is_idle(self, metrics: EngineMetrics, watch: ProgressWatch) -> bool:
        """Return whether the row has gone for want of use; asked when the lease is renewed. Raises
        `EngineEnded` for an engine that makes no progress.
        """
        is_due = self._lease.is_due
        if is_due:
            self._figures = metrics.read()
            watch.check()
        self._beat()
        if not is_due:
            return False
        idle_seconds = self._settings.engine_idle.total_seconds()
        try:
            with self._database.transaction() as session:
                return claims.unload_idle(session, self._engine, idle_seconds)
        except DATABASE_UNAVAILABLE_ERRORS:  # the next beat says so
            return False

    def _beat(self) -> None:
        """Renew the lease when that is due. Raises `OperationAbandoned`."""
        if self._stopping.is_set() or self._context.shutting_down.is_set():
            raise OperationAbandoned
        self._lease.renew_when_due()

    def _renew(self, session: Session, lease_seconds: float) -> None:
        if not claims.renew(session, self._engine, lease_seconds, **asdict(self._figures)):
            raise OperationAbandoned

    def _write(self, **values: object) -> None:
        with self._database.transaction() as session:
            if not claims.write(session, self._engine, **values):
                raise OperationAbandoned

    def _release(self) -> None:
        """Leave the model to another worker where it is to stay loaded and this one ends."""
        with self._database.transaction() as session:
            is_leaving = self._context.shutting_down.is_set()
            if not (is_leaving and claims.release(session, self._engine)):
                claims.unload(session, self._engine)

    def _fail(self, failure: PermanentError) -> None:
        error = {"error_code": failure.code, "error_message": failure.message}
        with self._database.transaction() as session:
            claims.write(session, self._engine, state=EngineState.FAILED, **error)


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
