"""Rows of a model's engines: who claims and who declines them, and what becomes of surplus ones."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, text, update

from app.base.database import now_plus
from app.inference import claims, repository
from app.inference.claims import WaitingEngine
from app.models import Engine, EngineState, Model, ServingWorker
from tests.support.backend import BASE_MODEL, Backend
from tests.support.waiting import wait_for

IDLE_SECONDS = 600.0
LEASE_SECONDS = 60.0
LIVE_SECONDS = 30.0
NUM_USERS = 4
NUM_USES = 10
NUM_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
NO_ROOM = ("engine_out_of_memory", "No room.")


def request(backend: Backend, replicas: int) -> None:
    with backend.database.transaction() as session:
        session.get_one(Model, BASE_MODEL).replicas = replicas
        session.flush()
        assert repository.request_engine(session, BASE_MODEL)
        assert not repository.request_engine(session, BASE_MODEL), "all wait already"


def waiting(backend: Backend, owner: str = "w") -> list[WaitingEngine]:
    with backend.database.read() as session:
        return claims.list_waiting(session, owner, IDLE_SECONDS)


def claim(backend: Backend, engine: Engine, owner: str = "w") -> Engine | None:
    with backend.database.transaction() as session:
        return claims.claim(session, engine, owner, LEASE_SECONDS)


def decline(backend: Backend, engine: Engine, owner: str) -> None:
    with backend.database.transaction() as session:
        claims.decline(session, engine, owner, *NO_ROOM, LIVE_SECONDS)


def note_workers(backend: Backend, *owners: str) -> None:
    for owner in owners:
        with backend.database.transaction() as session:
            claims.note_worker(session, owner)


def row(backend: Backend, replica: int = 0) -> Engine:
    with backend.database.read() as session:
        return session.get_one(Engine, (BASE_MODEL, replica))


def test_of_workers_that_claim_one_row_at_once_one_has_it(backend: Backend) -> None:
    request(backend, replicas=1)
    owners = [f"w{number}" for number in range(8)]
    start = threading.Barrier(len(owners))

    def race(owner: str) -> Engine | None:
        (free,) = waiting(backend, owner)
        start.wait()
        return claim(backend, free.engine, owner)

    with ThreadPoolExecutor(len(owners)) as pool:
        claimed = [engine for engine in pool.map(race, owners) if engine is not None]
    assert [engine.owner for engine in claimed] == [row(backend).owner]
    assert row(backend).attempt == 1


def test_a_worker_has_one_engine_of_a_model(backend: Backend) -> None:
    request(backend, replicas=3)
    first, *_ = waiting(backend)
    assert claim(backend, first.engine) is not None
    assert [(each.engine.replica, each.is_held) for each in waiting(backend)] == [
        (1, True),
        (2, True),
    ]
    assert [each.is_held for each in waiting(backend, "other")] == [False, False]


def test_a_model_fails_once_each_live_worker_has_declined_it(backend: Backend) -> None:
    note_workers(backend, "a", "b", "dead")
    with backend.database.transaction() as session:
        session.execute(
            update(ServingWorker)
            .where(ServingWorker.id == "dead")
            .values(seen_at=now_plus(-2 * LIVE_SECONDS))
        )
    request(backend, replicas=1)
    (free,) = waiting(backend)
    decline(backend, free.engine, "a")
    assert (row(backend).state, row(backend).error_message) == (EngineState.WAITING, NO_ROOM[1])
    claimed = claim(backend, free.engine, "b")
    assert claimed is not None
    assert claimed.error_message is None
    decline(backend, claimed, "a")
    assert row(backend).state == EngineState.LOADING, "it is another worker's"
    decline(backend, claimed, "b")
    assert row(backend).state == EngineState.WAITING, "the first may have room by now"
    (free,) = waiting(backend)
    decline(backend, free.engine, "a")
    assert row(backend).state == EngineState.FAILED
    assert waiting(backend) == []
    with backend.database.transaction() as session:
        assert repository.request_engine(session, BASE_MODEL), "the next request tries again"
    assert (row(backend).declined_by, row(backend).error_message) == (None, None)


def test_another_engine_waits_as_long_as_somebody_asks(backend: Backend) -> None:
    note_workers(backend, "a")
    request(backend, replicas=2)
    first, second = waiting(backend)
    assert claim(backend, first.engine, "a") is not None
    decline(backend, second.engine, "a")
    assert row(backend, 1).state == EngineState.WAITING
    assert len(waiting(backend)) == 1
    with backend.database.transaction() as session:
        unused = update(Engine).where(Engine.replica == 1)
        session.execute(unused.values(used_at=now_plus(-2 * IDLE_SECONDS)))
    assert waiting(backend) == []
    with backend.database.transaction() as session:
        repository.note_use(session, row(backend))
    assert len(waiting(backend)) == 1


def test_surplus_engines_are_neither_loaded_nor_chosen_and_end(backend: Backend) -> None:
    request(backend, replicas=3)
    first, second, _ = waiting(backend)
    held = [claim(backend, each.engine, f"w{each.engine.replica}") for each in (first, second)]
    ready = {"state": EngineState.READY, "address": "http://127.0.0.1:1", "num_requests": 1}
    with backend.database.transaction() as session:
        for engine in held:
            assert engine is not None
            assert claims.write(session, engine, **ready)
        model = session.get_one(Model, BASE_MODEL)
        assert len(repository.find_ready(session, model)) == 2
        model.replicas = 1
        session.flush()
        repository.drop_surplus(session, model)
    assert waiting(backend) == []
    with backend.database.transaction() as session:
        model = session.get_one(Model, BASE_MODEL)
        assert [each.engine.replica for each in repository.find_ready(session, model)] == [0]
        assert {each.replica for each in repository.list_loaded(session, None)} == {0, 1}
        surplus = held[1]
        assert surplus is not None
        assert not claims.unload_idle(session, surplus, IDLE_SECONDS), "it has just been used"
        old = update(Engine).values(used_at=now_plus(-60))
        session.execute(old)
        assert not claims.unload_idle(session, surplus, IDLE_SECONDS), "it has a request"
        repository.note_use(session, row(backend))
        session.execute(update(Engine).values(num_requests=0))
        assert claims.unload_idle(session, surplus, IDLE_SECONDS)
        assert held[0] is not None
        assert not claims.unload_idle(session, held[0], IDLE_SECONDS)
    request(backend, replicas=2)
    assert [each.engine.replica for each in waiting(backend)] == [1]


def test_a_failure_is_that_of_the_engines_that_wait_beside_it(backend: Backend) -> None:
    request(backend, replicas=2)
    first, second = waiting(backend)
    held = claim(backend, first.engine, "a")
    assert held is not None
    with backend.database.transaction() as session:
        claims.fail(session, held, "engine_failed", "It has ended.")
    assert (row(backend).state, row(backend, 1).state) == (EngineState.FAILED, EngineState.FAILED)
    with backend.database.transaction() as session:
        assert repository.request_engine(session, BASE_MODEL)
    first, second = waiting(backend)
    for each, owner in ((first, "a"), (second, "b")):
        assert claim(backend, each.engine, owner) is not None
    with backend.database.transaction() as session:
        claims.fail(session, row(backend), "engine_failed", "It has ended.")
    assert (row(backend).state, row(backend, 1).state) == (EngineState.FAILED, EngineState.LOADING)


def test_an_engine_that_is_to_stay_loaded_is_free_once_its_worker_has_gone(
    backend: Backend,
) -> None:
    request(backend, replicas=1)
    (free,) = waiting(backend)
    held = claim(backend, free.engine)
    assert held is not None
    with backend.database.transaction() as session:
        session.execute(update(Engine).values(lease_expires_at=now_plus(-1)))
    assert waiting(backend) == []
    with backend.database.transaction() as session:
        session.execute(update(Engine).values(keep_loaded=True))
    (free,) = waiting(backend, "other")
    assert claim(backend, free.engine, "other") is not None
    with backend.database.transaction() as session:
        assert not claims.write(session, held, state=EngineState.READY), "the zombie is fenced out"
        assert repository.end(session, BASE_MODEL)
    assert waiting(backend) == [], "an administrator has unloaded it"


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_changes_of_all_engines_of_a_model_wait_for_no_other_in_a_circle(backend: Backend) -> None:
    request(backend, replicas=4)
    for each in waiting(backend):
        assert claim(backend, each.engine, f"w{each.engine.replica}") is not None
    start = threading.Barrier(NUM_USERS)

    def use(number: int) -> None:
        engine = row(backend, number % 4)
        start.wait()
        for _ in range(NUM_USES):
            with backend.database.transaction() as session:
                repository.note_use(session, engine)
                repository.request_engine(session, BASE_MODEL)
            with backend.database.transaction() as session:
                claims.renew(session, engine, LEASE_SECONDS, num_requests=number)
            with backend.database.transaction() as session:
                repository.keep_loaded(session, BASE_MODEL, bool(number % 2))

    with ThreadPoolExecutor(NUM_USERS) as pool:
        list(pool.map(use, range(NUM_USERS)))
    assert {row(backend, number).state for number in range(4)} == {EngineState.LOADING}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_engine_that_comes_meanwhile_is_in_the_same_order(backend: Backend) -> None:
    """One transaction waited for those that were there before; the next one sees all of them."""
    request(backend, replicas=2)
    with backend.database.transaction() as session:
        session.execute(delete(Engine).where(Engine.replica == 0))
    engine = row(backend, 1)
    has_begun = threading.Event()
    others_wait = threading.Event()

    def use(is_first: bool) -> None:
        with backend.database.transaction() as session:
            repository.lock(session, BASE_MODEL)
            if is_first:
                has_begun.set()
                others_wait.wait()
            repository.note_use(session, engine)

    def num_waiting() -> int:
        with backend.database.read() as session:
            return session.scalar(text(NUM_WAITING)) or 0

    with ThreadPoolExecutor(2) as pool:
        with backend.database.transaction() as session:
            assert repository.request_engine(session, BASE_MODEL)
            first = pool.submit(use, True)
            wait_for(lambda: num_waiting() == 1, what="it waits for the engine that is there")
        has_begun.wait()
        second = pool.submit(use, False)
        wait_for(lambda: num_waiting() == 1, what="the second waits for the first")
        others_wait.set()
        for each in (first, second):
            each.result()


def test_an_engine_that_becomes_ready_between_two_reads_has_its_address(backend: Backend) -> None:
    request(backend, replicas=1)
    (free,) = waiting(backend)
    assert claim(backend, free.engine) is not None
    with backend.database.read() as session:
        (loading,) = repository.find(session, BASE_MODEL)
        assert loading.address is None
        with backend.database.transaction() as other:
            ready = update(Engine).where(Engine.model_id == BASE_MODEL)
            other.execute(ready.values(state=EngineState.READY, address="http://127.0.0.1:1"))
        found = repository.find_ready(session, session.get_one(Model, BASE_MODEL))
        # SQLite's reads are all of one moment.
        assert len(found) == (1 if session.get_bind().dialect.name == "postgresql" else 0)
        assert all(each.engine.address for each in found)
