"""Training files made of stored answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.answers import add_answer, keep_answers
from tests.support.api import Api, Tenant


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("answers")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder)
    yield api
    api.stop()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def add(tenant: Tenant, *args: Any, corrected: str | None = None, **fields: Any) -> None:
    id_ = add_answer(tenant.api.database, tenant.project_id, *args, **fields)
    if corrected is not None:
        body = {"falqon": {"corrected": corrected}}
        tenant.http.post(f"/v1/chat/completions/{id_}", json=body).raise_for_status()


def make(tenant: Tenant, **body: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the file, and its lines."""
    answer = tenant.http.post("/v1/stored_answers/files", json=body)
    assert answer.status_code == 200, answer.text
    file: dict[str, Any] = answer.json()
    content = tenant.client.files.content(file["id"]).read()
    return file, [json.loads(line) for line in content.splitlines()]


def test_corrections_replace_answers_and_repeated_and_held_out_ones_are_left_out(
    tenant: Tenant,
) -> None:
    add(tenant, "Berlin", question="Capital?", team="red")
    add(tenant, "Paris", question="Capital?", corrected="Bern", team="red")
    for _ in range(2):
        add(tenant, "four", question="two and two?", team="red")
    add(tenant, "six", question="three and three?", team="red")
    add(tenant, "It is", question="How?", finish_reason="length", team="red")
    add(tenant, "no", question="Other?", team="blue")
    held_out = [
        {"role": "user", "content": "three and three?"},
        {"role": "assistant", "content": "6"},
    ]
    file_id = tenant.upload(json.dumps({"messages": held_out}).encode())
    body = {"filter": {"metadata": {"team": "red"}}, "held_out_file": file_id}
    file, lines = make(tenant, **body)
    answers = [[message["content"] for message in line["messages"]] for line in lines]
    assert answers == [["Capital?", "Bern"], ["two and two?", "four"]]
    made_of = file["made_of"]
    assert made_of.pop("request")["held_out_file"] == file_id
    assert made_of == {
        "num_answers": 6,
        "num_repeated": 2,
        "num_held_out": 1,
        "num_unusable": 1,
    }
    kept = tenant.http.get(f"/v1/files/{file['id']}").json()["made_of"]["request"]
    again, same = make(tenant, **kept)
    assert (again["id"] != file["id"], same) == (True, lines)
    tenant.check(file["id"])
    assert tenant.client.files.retrieve(file["id"]).status == "processed"


def test_pairs_are_of_corrected_answers(tenant: Tenant) -> None:
    add(tenant, "Paris", question="Capital?", corrected="Bern")
    add(tenant, "four", corrected="four")
    add(tenant, "five")
    file, (line,) = make(tenant, shape="preference")
    assert line["preferred_output"] == [{"content": "Bern", "role": "assistant"}]
    assert line["non_preferred_output"] == [{"role": "assistant", "content": "Paris"}]
    assert file["made_of"]["num_unusable"] == 2
    tenant.check(file["id"])
    assert tenant.client.files.retrieve(file["id"]).report["shape"] == "preference"


def test_a_file_without_a_line_says_why(tenant: Tenant) -> None:
    add(tenant, "cut", finish_reason="length")
    answer = tenant.http.post("/v1/stored_answers/files", json={})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "no_answers")
    assert "1 answers match" in error["message"]
