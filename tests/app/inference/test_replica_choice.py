"""Choice among the engines of a model."""

import socket
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from app.base.database import now_plus
from app.inference.replica_choice import ReplicaChoice
from app.inference.service import EngineTarget
from app.models import Engine, EngineState, Model
from tests.support.api import TINY_CONFIG, Api, Tenant
from tests.support.model_engine import EXPECTED, model_engine

NEXT_ANSWER_SECONDS = 5.0


def target(name: str, max_answers: int = 4, num_requests: int | None = None) -> EngineTarget:
    engine = Engine(model_id="m", num_requests=num_requests)
    return EngineTarget(f"http://{name}", "", engine, max_answers, "p", True, num_replicas=2)


def test_requests_go_to_the_engine_with_fewest_for_its_size() -> None:
    small, large = target("small", 4), target("large", 12)
    choice = ReplicaChoice()
    with ExitStack() as held:
        chosen: Counter[str] = Counter()
        for _ in range(16):
            engine = choice.choose([small, large])
            held.enter_context(choice.hold(engine))
            chosen[engine.address] += 1
    assert chosen == {small.address: 4, large.address: 12}
    assert {choice.choose([small, large]).address for _ in range(100)} == set(chosen)


def test_of_equals_the_one_is_chosen_that_others_ask_less() -> None:
    busy, calm = target("busy", num_requests=3), target("calm", num_requests=0)
    choice = ReplicaChoice()
    assert {choice.choose([busy, calm]).address for _ in range(50)} == {calm.address}
    with choice.hold(calm):
        assert choice.choose([busy, calm]) is busy


def test_an_engine_that_has_not_answered_is_the_last_choice() -> None:
    silent, other = target("silent"), target("other")
    choice = ReplicaChoice()
    choice.avoid(silent)
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(choice.hold(other))
        assert choice.choose([silent, other]) is other
    assert choice.choose([silent]) is silent


def test_a_machine_that_has_gone_costs_one_question_seconds_and_the_next_none(
    tmp_path: Path,
) -> None:
    """It does not refuse connections: nobody takes them any more."""
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path)
    tenant = Tenant(api)
    with ExitStack() as stack:
        stack.callback(api.stop)
        stack.callback(tenant.http.close)
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        backlog = [stack.enter_context(socket.socket()) for _ in range(2)]
        for waiting in backlog:
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        gone = f"http://127.0.0.1:{silent.getsockname()[1]}"
        there = stack.enter_context(model_engine())
        with api.database.transaction() as session:
            session.add(Model(id="m", replicas=2, config=TINY_CONFIG, bytes=0))
            session.flush()
            for replica, address in enumerate((gone, there)):
                row = {"model_id": "m", "replica": replica, "state": EngineState.READY}
                lease = {"lease_expires_at": now_plus(600), "used_at": now_plus()}
                # Nobody else asks the one that has gone, so it is chosen first.
                load = {"address": address, "token": address, "num_requests": replica}
                session.add(Engine(**row, **lease, **load))
        question = {"model": "m", "messages": [{"role": "user", "content": "two and two?"}]}
        seconds = []
        for _ in range(2):
            began_at = time.monotonic()
            answer = tenant.http.post("/v1/chat/completions", json=question)
            seconds.append(time.monotonic() - began_at)
            assert answer.json()["choices"][0]["message"]["content"] == EXPECTED
        assert seconds[1] < seconds[0] < NEXT_ANSWER_SECONDS


def test_models_are_served_where_a_pattern_of_their_names_says(tmp_path: Path) -> None:
    with model_engine() as url:
        patterns = {"acme/*": f"{url}/", "acme/never": "http://127.0.0.1:1"}
        api = Api(
            f"sqlite:///{tmp_path / 'falqon.db'}",
            tmp_path,
            engine_urls=patterns,
            engine_wait=timedelta(seconds=0.2),
        )
        tenant = Tenant(api)
        try:
            for model_id in ("acme/never", "other"):
                tenant.add_model(model_id, project_id=None)
            question = {"messages": [{"role": "user", "content": "two and two?"}]}
            path = "/v1/chat/completions"
            answer = tenant.http.post(path, json=question | {"model": "acme/never"})
            assert answer.json()["choices"][0]["message"]["content"] == EXPECTED
            elsewhere = tenant.http.post(path, json=question | {"model": "other"})
            assert elsewhere.json()["error"]["code"] == "model_loading"
        finally:
            tenant.http.close()
            api.stop()
