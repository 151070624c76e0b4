"""Models that are unloaded before a worker has them."""

from app.base.database import now
from app.inference import claims, repository
from app.models import Engine, EngineState
from tests.support.backend import BASE_MODEL, Backend


def test_what_waits_for_a_worker_can_be_unloaded(backend: Backend) -> None:
    with backend.database.transaction() as session:
        waiting = {"state": EngineState.WAITING, "attempt": 3, "keep_loaded": True}
        session.add(Engine(model_id=BASE_MODEL, used_at=now(session), **waiting))
    with backend.database.transaction() as session:
        assert len(repository.list_loaded(session, None)) == 1
        assert repository.end(session, BASE_MODEL)
        assert repository.list_loaded(session, None) == []
        assert not repository.end(session, BASE_MODEL)
        assert claims.list_waiting(session, "w", 600) == []
    with backend.database.transaction() as session:
        assert repository.request_engine(session, BASE_MODEL), "a question has it loaded again"
        (waiting,) = claims.list_waiting(session, "w", 600)
        claimed = claims.claim(session, waiting.engine, "w", 60)
        assert claimed is not None
        assert (claimed.attempt, claimed.keep_loaded) == (4, False)


def test_a_model_that_only_batches_ask_for_waits_until_a_client_does(backend: Backend) -> None:
    with backend.database.transaction() as session:
        assert repository.request_engine(session, BASE_MODEL, is_patient=True)
        engine = session.get_one(Engine, (BASE_MODEL, 0))
        assert claims.is_patient(session, engine)
        assert not repository.request_engine(session, BASE_MODEL), "it waits already"
        assert not claims.is_patient(session, engine)
        assert not repository.request_engine(session, BASE_MODEL, is_patient=True)
        assert not claims.is_patient(session, engine), "a client has asked for it"
