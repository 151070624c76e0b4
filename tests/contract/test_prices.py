"""The dated table, and what an admin sets in its place."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.models import DEFAULT_PROJECT_ID, PriceOverride, Scope
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.prices import default_price
from tests.support.api import Api, Tenant

PATH = "/v1/prices"
OURS = {"device": "cpu", "usd_per_device_hour": "0.10", "source": "our own machines"}


@pytest.fixture
def admin(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    yield tenant
    tenant.http.put(PATH, json={"overrides": []})
    tenant.http.close()


def in_force(tenant: Tenant) -> dict[str, Any]:
    rows = tenant.http.get(PATH).json()["data"]
    return {row["device"]: row for row in rows if row["in_force"]}


def test_the_table_names_providers_sources_and_dates(tenant: Tenant) -> None:
    page = tenant.http.get(PATH).json()
    assert (page["object"], page["has_more"], page["first_id"]) == (
        "list",
        False,
        page["data"][0]["id"],
    )
    assert len({row["id"] for row in page["data"]}) == len(page["data"])
    for row in page["data"]:
        assert row["source"]
        assert row["as_of"].startswith("2026-")
        assert row["age_days"] >= 0
        assert isinstance(row["usd_per_device_hour"], str)
    assert in_force(tenant).keys() == DEVICES.keys()
    assert in_force(tenant)["h100"]["usd_per_device_hour"] == str(
        default_price("h100").usd_per_device_hour
    )


def test_an_override_counts_at_once_and_for_new_estimates_only(admin: Tenant) -> None:
    old = admin.job()
    before = admin.num_rows(PriceOverride)
    answer = admin.http.put(PATH, json={"overrides": [OURS]})
    assert answer.status_code == 200
    row = in_force(admin)["cpu"]
    assert (row["usd_per_device_hour"], row["source"], row["kind"]) == (
        "0.10",
        "our own machines",
        "override",
    )
    new = admin.job()
    assert (new.cost["usd_per_device_hour"], old.cost["usd_per_device_hour"]) == ("0.10", "0.045")
    assert "this installation" in new.cost["price_source"]
    assert admin.client.fine_tuning.jobs.retrieve(old.id).cost == old.cost, "what was said stays"
    admin.http.put(PATH, json={"overrides": [OURS]})
    assert admin.num_rows(PriceOverride) == [before[0] + 1], "twice is once"
    admin.http.put(PATH, json={"overrides": []})
    assert in_force(admin)["cpu"]["usd_per_device_hour"] == "0.045"
    assert admin.num_rows(PriceOverride) == [before[0] + 2], "the record is kept"


def test_a_card_that_the_table_does_not_list_is_unpriced_until_a_price_is_set(
    admin: Tenant,
) -> None:
    card = "rtx-5090-31gib-sm120"
    job = {"model": admin.base_model, "training_file": admin.upload()}
    path = f"/v1/fine_tuning/estimates?device={card}"
    cost = admin.http.post(path, json=job).json()["cost"]
    assert (cost["usd_per_device_hour"], cost["expected"]) == ("0", "0.0000")
    assert cost["price_source"].startswith("unpriced: ")
    admin.http.put(PATH, json={"overrides": [OURS | {"device": card}]})
    assert in_force(admin)[card]["usd_per_device_hour"] == "0.10"
    assert admin.http.post(path, json=job).json()["cost"]["usd_per_device_hour"] == "0.10"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "overrides", "missing_required_parameter"),
        ({"overrides": [OURS | {"device": "abacus"}]}, "overrides.0.device", "invalid_value"),
        (
            {"overrides": [OURS | {"usd_per_device_hour": 0.1}]},
            "overrides.0.usd_per_device_hour",
            "invalid_value",
        ),
        (
            {"overrides": [OURS | {"usd_per_device_hour": "-1"}]},
            "overrides.0.usd_per_device_hour",
            "invalid_value",
        ),
        ({"overrides": [OURS | {"source": ""}]}, "overrides.0.source", "invalid_value"),
        ({"overrides": [OURS | {"until": "2027"}]}, "overrides.0.until", "unknown_parameter"),
        ({"overrides": [OURS, OURS]}, "overrides", "invalid_value"),
    ],
)
def test_a_bad_override_changes_nothing(
    admin: Tenant, body: dict[str, Any], param: str, code: str
) -> None:
    before = admin.num_rows(PriceOverride)
    answer = admin.http.put(PATH, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert admin.num_rows(PriceOverride) == before
