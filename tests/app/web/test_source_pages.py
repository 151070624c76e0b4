"""Files of tables and of what stands elsewhere, bad lines, and base models, on pages."""

import json
import re

import httpx
import pytest

from app.keys.service import add_key
from app.models import DEFAULT_PROJECT_ID, ModelImport, Scope
from app.operations import claims
from app.web.text import model_page
from tests.contract.test_file_imports import work
from tests.support.api import Api, Tenant, jsonl
from tests.support.pages import SAME_SITE, token

MAPPING = json.dumps({"prompt": "question", "completion": "answer"})


def post(browser: httpx.Client, path: str, page: str = "/data", **fields: str) -> httpx.Response:
    data = {"csrf": token(browser.get(page))} | fields
    return browser.post(path, data=data, headers=SAME_SITE)


def test_a_table_is_uploaded_with_the_names_of_its_columns(
    browser: httpx.Client, tenant: Tenant
) -> None:
    fields = {"csrf": token(browser.get("/data")), "mapping": MAPPING}
    files = {"file": ("rows.csv", b"question,answer,score\n<b>,c,1\n")}
    page = browser.post("/data", data=fields, files=files, headers=SAME_SITE)
    assert "being read, 0" in page.text
    work(tenant)
    page = browser.get(page.url.path)
    assert "prompt from question, completion from answer" in page.text
    assert "<dt>Ignored columns</dt><dd>score</dd>" in page.text
    assert "&lt;b&gt;" in page.text
    assert "<b>" not in page.text
    refused = browser.post("/data", data=fields | {"mapping": "{"}, files=files, headers=SAME_SITE)
    assert (refused.status_code, "write the column" in refused.text) == (400, True)


def test_a_dataset_becomes_a_file_or_the_page_says_why_not(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = post(browser, "/data/sources", source="hf://acme/rows@main/train", mapping=MAPPING)
    assert page.url.path.startswith("/data/file-")
    assert "hf://acme/rows@main/train" in page.text
    assert "Importing the source" in page.text
    page = post(browser, "/data/sources", source="ftp://acme/rows")
    assert page.status_code == 400
    assert re.search(r'id="error-source"[^>]*>write hf://owner/name', page.text)
    assert 'value="ftp://acme/rows"' in page.text
    page = post(browser, "/data/sources", source="hf://acme/rows@main/train", mapping="{")
    assert re.search(r'id="error-mapping"[^>]*>[^<]', page.text)
    assert 'value="hf://acme/rows@main/train"' in page.text
    assert len(tenant.client.files.list().data) == 1


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_a_bad_line_is_shown_with_its_column_and_can_be_left_out(
    browser: httpx.Client, tenant: Tenant, prefix: bytes
) -> None:
    good = jsonl(20)
    bad = b'{"messages": [{"role": "user", "content": 7}, \x01 {"role": "assistant"}]}\n'
    file_id = tenant.upload(prefix + bad + good)
    page = browser.get(f"/data/{file_id}")
    quoted = re.search(r'<code class="quoted">(.*?)</code>', page.text)
    assert quoted is not None
    assert "<mark>" in quoted[1]
    (error,) = tenant.client.get(f"/files/{file_id}", cast_to=object)["report"]["errors"]  # type: ignore[index]
    assert error["text"][error["mark"]] == bad.decode()[error["column"] - 1].replace(
        "\x01", "\ufffd"
    )
    link = re.search(r'href="(/data/[^"]*skip_bad_lines=true)"', page.text)
    assert link is not None
    answer = browser.get(link[1])
    assert answer.content == good
    assert "rows-good.jsonl" in answer.headers["content-disposition"]
    path = f"/v1/files/{file_id}/content"
    assert tenant.http.get(path, params={"skip_bad_lines": True}).content == good


def finish_import(api: Api, **values: object) -> None:
    """Do what a worker does at the end of the only import."""
    with api.database.transaction() as session:
        (imported,) = session.query(ModelImport)
        imported.attempt = 1
        session.flush()
        assert claims.complete(session, imported, **values)


def test_an_installation_admin_adds_and_deletes_base_models(
    api: Api, browser: httpx.Client, tenant: Tenant
) -> None:
    assert "Add a base model" not in browser.get("/models").text
    form = {"id": "acme/new", "source": "hf://acme/new"}
    assert post(browser, "/models", **form).status_code == 403
    with api.database.transaction() as session:
        _, key = add_key(session, DEFAULT_PROJECT_ID, "installation", Scope.ADMIN)
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as admin:
        admin.post("/sign-in", data={"key": key}, headers=SAME_SITE)
        page = post(admin, "/models", **form)
        assert "A worker imports acme/new." in page.text
        assert "being added" in page.text
        polled = page.text.partition('hx-select="#bases"')[2]
        assert f'href="{model_page(tenant.base_model)}"' in polled, "with the models themselves"
        finish_import(api, conversions=["The weights were <i>fp8</i>."])
        page = admin.get("/models")
        assert "being added" not in page.text
        assert 'hx-select="#bases"' not in page.text
        assert "The weights were &lt;i&gt;fp8&lt;/i&gt;." in page.text
        refused = post(admin, "/models", id="<a>", source="/etc")
        assert refused.status_code == 400
        assert re.search(r'id="error-\w*"[^>]*>[^<]', refused.text)
        for typed in ("&lt;a&gt;", "/etc"):
            assert f'value="{typed}"' in refused.text
        page = post(admin, f"/models/{tenant.base_model}/delete")
        assert f"{tenant.base_model} is deleted." in page.text
    assert tenant.base_model not in {model.id for model in tenant.client.models.list()}


def test_columns_of_unknown_names_are_chosen_from_menus(
    browser: httpx.Client, tenant: Tenant
) -> None:
    fields = {"csrf": token(browser.get("/data"))}
    files = {"file": ("rows.csv", b"Question,<b>,Score\nwho?,me,1\n")}
    path = browser.post("/data", data=fields, files=files, headers=SAME_SITE).url.path
    assert f"{path}/columns" not in browser.get(path).text
    work(tenant)
    page = browser.get(path).text
    menu = re.search(r'<select id="column-prompt".*?</select>', page, re.DOTALL)
    assert menu is not None
    assert re.findall(r'value="(.+?)"( selected)?', menu[0]) == [
        ("Question", " selected"),
        ("&lt;b&gt;", ""),
        ("Score", ""),
    ]
    post(browser, f"{path}/columns", path, prompt="Question", completion="nobody")
    work(tenant)
    assert "there is no column &#39;nobody&#39;" in browser.get(path).text
    post(browser, f"{path}/columns", path, prompt="Question", completion="<b>")
    work(tenant)
    page = browser.get(path).text
    assert "prompt from Question, completion from &lt;b&gt;" in page
    assert tenant.client.files.retrieve(path.removeprefix("/data/")).status == "processed"
    refused = post(browser, f"{path}/columns", path, prompt="Question", completion="Score")
    assert "not a table with unknown columns" in refused.text


def test_a_copy_has_neither_bad_lines_nor_repeated_ones(
    browser: httpx.Client, tenant: Tenant
) -> None:
    good = b"".join(b'{"text": "%d"}\n' % number for number in range(20))
    file_id = tenant.upload(b"{}\n" + good + good)
    page = post(browser, f"/data/{file_id}/clean", f"/data/{file_id}")
    copy_id = page.url.path.removeprefix("/data/")
    assert copy_id != file_id
    assert tenant.client.files.content(copy_id).read() == good
    assert tenant.client.files.retrieve(copy_id).filename == "rows-clean.jsonl"
    hopeless = tenant.upload(b"{}\n" * 20)
    page = post(browser, f"/data/{hopeless}/clean", f"/data/{hopeless}")
    assert "has no good line to keep" in page.text


def test_example_data_is_one_click_away_on_an_empty_project(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.get("/jobs/new").text
    assert 'form="example-form"' in page
    page = post(browser, "/data/example", "/jobs/new", back="/jobs/new")
    assert page.url.path == "/jobs/new"
    file_id = page.url.params["training_file"]
    tenant.check(file_id)
    assert tenant.client.files.retrieve(file_id).status == "processed"
    page = browser.get("/jobs/new").text
    assert "support_desk.jsonl, 162 records" in page
    assert 'form="example-form"' not in page
