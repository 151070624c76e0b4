"""Names that stand for models: set, split, put back and kept from harm."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from app.aliases import repository, service
from app.aliases.traffic import Traffic
from app.auth import audit
from app.auth.caller import Caller
from app.base.ids import new_id
from app.catalogue import service as catalogue
from app.models import Scope
from tests.support.api import Api, Tenant, installation_admin
from tests.support.databases import num_waiting_for
from tests.support.waiting import wait_for

OLD = "ft:gpt-4o-mini-2024-07-18:acme::abc123"


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


def put(http: httpx.Client, name: str, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/aliases", json={"name": name} | body)
    assert answer.status_code == 200, answer.text
    alias: dict[str, Any] = answer.json()
    return alias


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_name_is_set_changed_put_back_and_deleted(tenant: Tenant) -> None:
    models = [new_id("ft:tiny:acme::") for _ in range(2)]
    for model in models:
        tenant.add_model(model, project_id=tenant.project_id)
    first = put(tenant.http, OLD, model=models[0])
    assert first["id"] == OLD
    assert first["models"] == [{"model": models[0], "weight": 1}]
    assert put(tenant.http, OLD, model=models[0])["version"] == 1, "nothing has changed"
    split = [{"model": models[1], "weight": 5}, {"model": models[0], "weight": 95}]
    assert put(tenant.http, OLD, models=split)["models"] == split
    assert tenant.client.models.retrieve(OLD).id == models[0], "the greater share"
    assert put(tenant.http, OLD, model=models[1])["version"] == 3
    job = tenant.job(model=OLD)
    assert job.model == models[1]
    listed = tenant.http.get("/v1/fine_tuning/jobs", params={"model": OLD}).json()["data"]
    assert [each["id"] for each in listed] == [job.id]

    assert tenant.http.post(f"/v1/aliases/{OLD}/rollback").json()["models"] == split
    back = tenant.http.post(f"/v1/aliases/{OLD}/rollback", json={"version": 1}).json()
    assert (back["version"], back["models"]) == (5, first["models"])
    assert tenant.http.delete(f"/v1/aliases/{OLD}").json()["deleted"] is True
    assert refusal(tenant.http.get(f"/v1/aliases/{OLD}")) == (404, "alias_not_found")
    versions = tenant.http.get(f"/v1/aliases/{OLD}/versions").json()["data"]
    assert [each["version"] for each in versions] == [6, 5, 4, 3, 2, 1]
    assert tenant.http.post(f"/v1/aliases/{OLD}/rollback").json()["models"] == first["models"]


def test_the_list_of_models_says_what_a_name_stands_for(tenant: Tenant) -> None:
    put(tenant.http, "gpt-4o", model=tenant.base_model)
    last = tenant.client.models.list().data[-1]
    assert (last.id, last.owned_by) == ("gpt-4o", tenant.project_id)
    assert last.stands_for == [{"model": tenant.base_model, "weight": 1}]
    (alias,) = tenant.http.get("/v1/aliases").json()["data"]
    assert alias["id"] == "gpt-4o"


def test_a_project_has_names_of_its_own_before_those_of_every_project(
    api: Api, tenant: Tenant
) -> None:
    other = Tenant(api)
    name = new_id("gpt-")
    own = new_id("ft:tiny:acme::")
    tenant.add_model(own, project_id=tenant.project_id)
    admin = installation_admin(api)
    everywhere = {"everywhere": True}
    private = admin.post("/v1/aliases", params=everywhere, json={"name": name, "model": own})
    assert refusal(private) == (400, "model_not_found"), "others have no such model"
    body = {"name": name, "model": tenant.base_model}
    assert admin.post("/v1/aliases", params=everywhere, json=body).status_code == 200
    put(tenant.http, name, model=own)
    assert tenant.client.models.retrieve(name).id == own
    assert other.client.models.retrieve(name).id == tenant.base_model
    refused = other.http.post("/v1/aliases", params=everywhere, json=body)
    assert refusal(refused) == (403, "insufficient_permissions")
    assert refusal(other.http.post("/v1/aliases", json={"name": name, "model": own})) == (
        400,
        "model_not_found",
    )
    tenant.http.delete(f"/v1/aliases/{name}")
    assert tenant.client.models.retrieve(name).id == tenant.base_model
    assert admin.delete(f"/v1/aliases/{name}", params=everywhere).status_code == 200
    for http in (other.http, admin):
        http.close()


def test_names_that_stand_for_nothing_useful_are_refused(tenant: Tenant) -> None:
    model = tenant.base_model
    weights = [{"model": model, "weight": 1}, {"model": model, "weight": 2}]
    for name, body, code in (
        ("a", {"model": "missing"}, "model_not_found"),
        ("a", {"model": "a"}, "alias_of_itself"),
        (model, {"model": model}, "alias_is_a_model"),
        ("a", {}, "invalid_value"),
        ("a", {"model": model, "models": weights[:1]}, "invalid_value"),
        ("a", {"models": weights}, "invalid_value"),
        ("a", {"models": [{"model": model, "weight": 0}]}, "invalid_value"),
        ("a", {"models": [{"model": model, "weight": 10**9}]}, "invalid_value"),
        ("a", {"models": [{"model": f"m{i}"} for i in range(9)]}, "invalid_value"),
        ("a" * 201, {"model": model}, "invalid_value"),
        ("a b", {"model": model}, "invalid_value"),
    ):
        assert refusal(tenant.http.post("/v1/aliases", json={"name": name} | body)) == (
            400,
            code,
        ), body
    put(tenant.http, "b", model=model)
    assert refusal(tenant.http.post("/v1/aliases", json={"name": "a", "model": "b"})) == (
        400,
        "model_not_found",
    ), "an alias is no model"
    missing = tenant.http.post("/v1/aliases/b/rollback")
    assert refusal(missing) == (400, "version_not_found")
    assert refusal(tenant.http.post("/v1/aliases/none/rollback")) == (404, "alias_not_found")


def test_a_model_is_not_deleted_while_a_name_stands_for_it(tenant: Tenant) -> None:
    model = new_id("ft:tiny:acme::")
    tenant.add_model(model, project_id=tenant.project_id)
    put(tenant.http, "support", model=model)
    with pytest.raises(openai.BadRequestError, match="'support' stands for the model"):
        tenant.client.models.delete(model)
    put(tenant.http, "support", model=tenant.base_model)
    assert tenant.client.models.delete(model).deleted
    back = tenant.http.post("/v1/aliases/support/rollback")
    assert refusal(back) == (400, "model_not_found")
    assert tenant.client.models.retrieve("support").id == tenant.base_model


@pytest.mark.both_databases
def test_a_name_set_while_its_model_is_deleted_waits_and_is_refused(
    api: Api, tenant: Tenant
) -> None:
    model = new_id("ft:tiny:acme::")
    tenant.add_model(model, project_id=tenant.project_id)
    caller = Caller("key", tenant.project_id, Scope.WRITE, None, False)
    body = {"name": "support", "model": model}
    with ThreadPoolExecutor(1) as pool:
        with api.database.transaction() as session:
            catalogue.delete(session, tenant.project_id, model, may_delete_bases=False)
            setting = pool.submit(tenant.http.post, "/v1/aliases", json=body)
            if session.get_bind().dialect.name == "postgresql":
                wait_for(
                    lambda: num_waiting_for(session) == 1, what="the name waits for the model's row"
                )
            audit.record(session, caller, "model.deleted", model)  # it locks the project's row
        assert refusal(setting.result()) == (400, "model_not_found")


def test_changes_at_once_are_versions_one_after_the_other(tenant: Tenant) -> None:
    models = [new_id("ft:tiny:acme::") for _ in range(8)]
    for model in models:
        tenant.add_model(model, project_id=tenant.project_id)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda model: put(tenant.http, "busy", model=model), models))
    versions = tenant.http.get("/v1/aliases/busy/versions").json()["data"]
    assert [each["version"] for each in versions] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert {each["models"][0]["model"] for each in versions} == set(models)


def test_only_the_newest_versions_are_kept_and_names_are_limited(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_VERSIONS", 2)
    for weight in (1, 2, 3):
        put(tenant.http, "a", models=[{"model": tenant.base_model, "weight": weight}])
    versions = tenant.http.get("/v1/aliases/a/versions").json()["data"]
    assert [each["version"] for each in versions] == [3, 2]
    monkeypatch.setattr(service, "MAX_ALIASES", 1)
    answer = tenant.http.post("/v1/aliases", json={"name": "b", "model": tenant.base_model})
    assert refusal(answer) == (400, "too_many_aliases")


@pytest.mark.both_databases
def test_a_deleted_name_comes_back_within_the_limit_until_it_is_forgotten(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_ALIASES", 2)
    monkeypatch.setattr(repository, "MAX_DELETED", 2)
    put(tenant.http, "kept", model=tenant.base_model)
    for name in ("first", "second"):
        put(tenant.http, name, model=tenant.base_model)
        tenant.http.delete(f"/v1/aliases/{name}").raise_for_status()
    put(tenant.http, "third", model=tenant.base_model)
    refused = tenant.http.post("/v1/aliases/first/rollback")
    assert refusal(refused) == (400, "too_many_aliases")
    assert [each["id"] for each in tenant.http.get("/v1/aliases").json()["data"]] == [
        "kept",
        "third",
    ]
    with tenant.api.database.read() as session:
        assert repository.count(session, tenant.project_id) == 2
        in_force = repository.list_in_force(session)
        mine = [each.name for each in in_force if each.project_id == tenant.project_id]
    assert sorted(mine) == ["kept", "third"]

    tenant.http.delete("/v1/aliases/third").raise_for_status()
    assert refusal(tenant.http.get("/v1/aliases/first/versions")) == (404, "alias_not_found")
    assert tenant.http.post("/v1/aliases/second/rollback").json()["version"] == 3
    assert len(tenant.http.get("/v1/aliases/kept/versions").json()["data"]) == 1


def test_names_of_the_settings_are_the_first_content_alone(api: Api, tenant: Tenant) -> None:
    name = new_id("gpt-")
    service.seed(api.database, {name: tenant.base_model})
    assert tenant.client.models.retrieve(name).id == tenant.base_model
    admin = installation_admin(api)
    assert admin.delete(f"/v1/aliases/{name}", params={"everywhere": True}).status_code == 200
    service.seed(api.database, {name: tenant.base_model})
    with pytest.raises(openai.NotFoundError):
        tenant.client.models.retrieve(name)
    admin.close()


def test_requests_are_summed_by_day_and_model(api: Api, tenant: Tenant) -> None:
    traffic = Traffic()
    for seconds in (0.1, 0.3, None):
        traffic.add(tenant.project_id, "support", "new", seconds)
    service.write_traffic(api.database, traffic)
    traffic.add(tenant.project_id, "support", "new", 0.2)
    traffic.add(tenant.project_id, "support", "old", None)
    service.write_traffic(api.database, traffic)
    service.write_traffic(api.database, traffic)
    put(tenant.http, "support", model=tenant.base_model)
    new, old = tenant.http.get("/v1/aliases/support/usage").json()["data"]
    assert (new["id"], new["requests"], new["errors"]) == ("new", 4, 1)
    assert new["average_milliseconds"] == pytest.approx(200)
    assert (old["requests"], old["errors"], old["average_milliseconds"]) == (1, 1, None)
