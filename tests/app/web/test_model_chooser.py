"""Models on the form of a new job: facts about the chosen one, and real ones to add."""

import re

import httpx
import pytest
from sqlalchemy import delete, update

from app.catalogue.importer import TINY_MODEL_ID
from app.models import DEFAULT_PROJECT_ID, Model, ModelImport, OperationStatus, Scope
from app.web.model_chooser import SUGGESTIONS, default_model
from app.web.text import model_page
from tests.app.web.test_data_pages import send
from tests.support.api import TINY_CONFIG, Api, Tenant
from tests.support.pages import SAME_SITE, sign_in, token


def facts(page: httpx.Response) -> str:
    part = re.findall(r'<div id="facts".*?</div>\s*</div>|<div id="facts".*', page.text, re.DOTALL)[
        0
    ]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part.partition("</dl>")[0]))


@pytest.fixture
def operator(api: Api, browser: httpx.Client) -> httpx.Client:
    """Somebody who administers the installation."""
    sign_in(browser, Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID))
    return browser


def test_the_chosen_model_says_its_size_its_licence_and_the_memory_that_it_takes(
    browser: httpx.Client, tenant: Tenant
) -> None:
    text = b"---\nlicense: apache-2.0\n---\n# A model"
    tenant.store_artifacts(tenant.base_model, {"README.md": text})
    page = browser.get(f"/jobs/new?model={tenant.base_model}")
    words = facts(page)
    context = f"{TINY_CONFIG['max_position_embeddings']:,}".replace(
        ",", "\N{NARROW NO-BREAK SPACE}"
    )
    assert f"Context {context} tokens" in words
    assert "Licence apache-2.0" in words
    assert re.search(r"Memory to train [\d.]+ .iB of this machine", words)
    assert "test model" not in words
    assert "Parameters" not in facts(browser.get("/jobs/new?model=unknown"))
    estimated = send(browser, "/estimate", model=tenant.base_model)
    assert "Licence apache-2.0" in facts(estimated)


def test_a_form_begins_with_a_model_that_knows_something() -> None:
    assert default_model([TINY_MODEL_ID, "ft:x", "smollm2"]) == "smollm2"
    assert default_model([TINY_MODEL_ID, "ft:x"]) == TINY_MODEL_ID
    assert default_model([]) == ""


def test_the_test_model_is_named_so_wherever_it_is_chosen(
    browser: httpx.Client, tenant: Tenant
) -> None:
    tenant.add_model(TINY_MODEL_ID, project_id=None)
    label = f"{TINY_MODEL_ID} (test model)"
    for path in ("/jobs/new", "/playground", "/models"):
        assert f">{label}<" in browser.get(path).text, path
    assert "knows nothing" in facts(browser.get(f"/jobs/new?model={TINY_MODEL_ID}"))
    trained = f"ft:{TINY_MODEL_ID}:acme::12345678"
    tenant.add_model(trained, project_id=tenant.project_id, base=TINY_MODEL_ID)
    tenant.add_model("ft:falqon-tiny-2:acme::1", project_id=tenant.project_id)
    for path in ("/jobs/new", "/playground"):
        assert f">{trained} (test model)<" in browser.get(path).text, path
    assert browser.get("/models").text.count("<small>test model</small>") == 1
    assert "test model, which knows nothing" in browser.get(model_page(trained)).text
    assert "knows nothing" in facts(browser.get(f"/jobs/new?model={trained}"))


def test_a_real_model_is_added_from_the_form_and_then_chosen(
    operator: httpx.Client, api: Api
) -> None:
    page = operator.get("/jobs/new")
    first = SUGGESTIONS[0]
    assert f">Add {first.id}</button>" in page.text
    form = {"csrf": token(page), "id": first.id, "source": first.source, "back": "/jobs/new"}
    added = operator.post("/models", data=form, headers=SAME_SITE)
    assert added.url.path == "/jobs/new"
    assert re.search(rf"being added</span> {first.id}", added.text)
    assert 'hx-select="#add-model"' in added.text
    with api.database.transaction() as session:
        session.execute(update(ModelImport).values(status=OperationStatus.COMPLETED))
    done = operator.get("/jobs/new").text
    assert f'name="model" value="{first.id}" formaction="/jobs/new/estimate">Use it' in done
    assert 'hx-select="#add-model"' not in done
    with api.database.transaction() as session:
        session.execute(delete(ModelImport))


def test_a_button_names_the_form_of_its_model_after_another_has_been_added(
    operator: httpx.Client, api: Api, tenant: Tenant
) -> None:
    form = r'<form [^>]*action="/models" id="([^"]+)".*?name="id" value="([^"]+)"'
    forms = dict(re.findall(form, operator.get("/jobs/new").text, re.DOTALL))
    assert list(forms.values()) == [each.id for each in SUGGESTIONS]
    assert not [form_id for form_id in forms if re.search(r"\s", form_id)]
    first, *others = (each.id for each in SUGGESTIONS)
    tenant.add_model(first, project_id=None)
    polled = operator.get("/jobs/new").text
    with api.database.transaction() as session:
        session.execute(delete(Model).where(Model.id == first))
    buttons = re.findall(r'<button form="([^"]+)">Add ([^<]+)</button>', polled)
    assert [model_id for _, model_id in buttons] == others
    assert [forms[form_id] for form_id, _ in buttons] == others


def test_who_does_not_administer_the_installation_is_offered_none(
    browser: httpx.Client, tenant: Tenant
) -> None:
    assert ">Add " not in browser.get("/jobs/new").text
