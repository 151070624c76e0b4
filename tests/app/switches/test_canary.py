"""A share of a new model goes back by itself where more of its requests fail, and else becomes all
of them.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.aliases import service as aliases
from app.aliases.traffic import Traffic
from app.models.alias import MAX_WEIGHT, AliasTarget, AliasTargets
from app.models.alias_switch import RequestCount
from app.switches import canary, watch
from tests.app.switches.conftest import (
    ask,
    deliveries_of,
    events_of,
    make_result,
    models_of,
    put,
    read,
    subscribe,
)
from tests.support.api import Api, Tenant
from tests.support.model_engine import BREAK
from tests.support.waiting import wait_for
from worker.operations.evaluation import EvaluationHandler


def answer(tenant: Tenant, name: str, model: str, *, answers: int = 0, errors: int = 0) -> None:
    """Have requests of the name counted, as the process that answered them does."""
    traffic = Traffic()
    for seconds in [0.1] * answers + [None] * errors:
        traffic.add(tenant.project_id, name, model, seconds)
    aliases.write_traffic(tenant.api.database, traffic)


def watch_at_once(api: Api) -> None:
    """Watch as the reconcilers of four API processes do."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(watch.watch, [api.database] * 4))


def begin(tenant: Tenant, handler: EvaluationHandler, old: str, new: str) -> str:
    put(tenant, "support", old)
    answer(tenant, "support", old, answers=50, errors=50)  # before it, and so not counted
    switch_id = ask(tenant, "support", model=new, canary=20)
    handler.poll()
    assert read(tenant, "support", switch_id)["status"] == "canary"
    assert models_of(tenant, "support") == {new: 1, old: 4}
    return switch_id


@pytest.mark.both_databases
def test_a_canary_that_fails_more_often_goes_back_by_itself(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    endpoint_id = subscribe(tenant)
    old, new = make_result(tenant).model, make_result(tenant)
    switch_id = begin(tenant, handler, old, new.model)
    answer(tenant, "support", old, answers=40)
    answer(tenant, "support", new.model, errors=9)
    watch_at_once(api)
    assert models_of(tenant, "support") == {new.model: 1, old: 4}, "nine are too few"
    answer(tenant, "support", new.model, errors=1)
    watch_at_once(api)
    assert models_of(tenant, "support") == {old: 1}
    back = read(tenant, "support", switch_id)
    assert back["status"] == "rolled_back"
    assert back["reason"].startswith("10 of 10 of its requests failed against 0 of 40")
    assert events_of(tenant, new.job_id)[0]["data"]["event"] == "switch.rolled_back"
    assert deliveries_of(tenant, endpoint_id) == ["canary", "rolled_back"]
    versions = tenant.http.get("/v1/aliases/support/versions").json()["data"]
    assert [version["switch"] for version in versions] == [switch_id, switch_id, None]


@pytest.mark.parametrize("kind", ["fragile", "strict"])
def test_requests_that_fail_or_are_refused_bring_the_old_model_back(
    tenant: Tenant, handler: EvaluationHandler, kind: str
) -> None:
    """The API counts them, and its own reconciler watches."""
    old, new = make_result(tenant).model, make_result(tenant, kind).model
    put(tenant, "support", old)
    switch_id = ask(tenant, "support", model=new, canary=50)
    handler.poll()
    body = {"model": "support", "messages": [{"role": "user", "content": BREAK}]}

    def request() -> int:
        return tenant.http.post("/v1/chat/completions", json=body).status_code

    wait_for(lambda: request() != 200, what="the API follows the split")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: request(), range(80)))
    wait_for(lambda: read(tenant, "support", switch_id)["status"] == "rolled_back")
    wait_for(lambda: {request() for _ in range(8)} == {200})


@pytest.mark.both_databases
def test_a_canary_that_holds_gets_all_requests_and_one_call_goes_back(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    endpoint_id = subscribe(tenant)
    old, new = make_result(tenant).model, make_result(tenant)
    switch_id = begin(tenant, handler, old, new.model)
    answer(tenant, "support", old, answers=380, errors=20)
    answer(tenant, "support", new.model, answers=99, errors=6)
    watch_at_once(api)
    assert read(tenant, "support", switch_id)["status"] == "canary"
    answer(tenant, "support", new.model, answers=1)
    watch_at_once(api)
    assert models_of(tenant, "support") == {new.model: 1}
    assert read(tenant, "support", switch_id)["status"] == "switched"
    assert deliveries_of(tenant, endpoint_id) == ["canary", "switched"]
    tenant.http.post("/v1/aliases/support/rollback").raise_for_status()
    assert models_of(tenant, "support") == {old: 1}, "not to the canary"


def test_a_name_that_is_changed_by_hand_ends_the_canary(
    api: Api, tenant: Tenant, handler: EvaluationHandler
) -> None:
    old, new = make_result(tenant).model, make_result(tenant)
    switch_id = begin(tenant, handler, old, new.model)
    tenant.http.post("/v1/aliases/support/rollback").raise_for_status()
    answer(tenant, "support", new.model, answers=200)
    watch_at_once(api)
    assert models_of(tenant, "support") == {old: 1}
    assert read(tenant, "support", switch_id)["status"] == "kept"


def test_a_share_keeps_the_proportions_of_the_others_within_the_weights() -> None:
    a, b = AliasTarget(model="a", weight=MAX_WEIGHT), AliasTarget(model="b", weight=500_000)
    new, *others = canary.add_share(AliasTargets(models=[a, b]), "new", 10).models
    total = new.weight + sum(other.weight for other in others)
    assert [target.model for target in (new, *others)] == ["new", "a", "b"]
    assert new.weight / total == pytest.approx(0.1, abs=1e-4)
    assert others[0].weight / others[1].weight == pytest.approx(2, abs=1e-4)
    assert max(new.weight, *(other.weight for other in others)) <= MAX_WEIGHT
    again = canary.add_share(AliasTargets(models=[new, *others]), "new", 50).models
    assert len(again) == 3
    tiny = AliasTargets(models=[a, AliasTarget(model="c", weight=1)])
    assert min(target.weight for target in canary.add_share(tiny, "new", 1).models) >= 1


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [  # as scipy.stats.fisher_exact(..., alternative="greater") has them
        ((4, 3), (4, 1), 0.242857),
        ((10, 10), (40, 0), 9.735e-11),
        ((100, 5), (1900, 95), 0.5684),
        ((20, 0), (10, 5), 1.0),
        ((20, 20), (0, 0), 1.0),
    ],
)
def test_the_p_value_is_that_of_fishers_exact_test(
    new: tuple[int, int], old: tuple[int, int], expected: float
) -> None:
    counts = [RequestCount(requests=requests, errors=errors) for requests, errors in (new, old)]
    assert canary.p_value(*counts) == pytest.approx(expected, rel=1e-2)
