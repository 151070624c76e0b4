import re
from html import unescape

import httpx
import pytest

from app.files import repository as files
from app.jobs import listing
from tests.support.api import Tenant, jsonl


def links(page: httpx.Response) -> list[str]:
    main = page.text.partition("<main")[2]
    return re.findall(r'<th scope="row" class="name"><a href="([^"]+)"', main)


def test_jobs_files_and_models_are_found_by_a_part_of_their_name(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.client.files.create(file=("Desk_rows.jsonl", jsonl()), purpose="fine-tune").id
    job = tenant.job(suffix="desk").id
    Tenant(tenant.api).job(suffix="desk")
    page = browser.get("/search?q=DESK")
    assert links(page) == [f"/jobs/{job}", f"/data/{file}"]
    assert 'href="/?q=DESK"' in page.text
    assert links(browser.get("/search?q=%25")) == []
    model = tenant.base_model
    assert f"/models/{model}" in links(browser.get(f"/search?q={model[-8:]}"))
    assert links(browser.get("/search")) == []
    assert 'href="/search"' in browser.get("/").text


def test_all_files_like_this_are_of_every_purpose(browser: httpx.Client, tenant: Tenant) -> None:
    upload = tenant.client.files.create
    training = upload(file=("desk.jsonl", jsonl()), purpose="fine-tune").id
    notes = upload(file=("desk notes.txt", b"text"), purpose="user_data").id
    upload(file=("sql.jsonl", jsonl()), purpose="fine-tune")
    for text, ids in (("desk", [notes, training]), (notes[-12:], [notes])):
        page = browser.get(f"/search?q={text}")
        assert links(page) == [f"/data/{id_}" for id_ in ids]
        (address,) = re.findall(r'href="([^"]+)">All files like this', page.text)
        assert links(browser.get(unescape(address))) == links(page)


def test_an_id_is_found_however_old(
    browser: httpx.Client, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tenant.job(suffix="old")
    tenant.job(suffix="new")
    monkeypatch.setattr(listing, "NUM_SEARCHED", 1)
    monkeypatch.setattr(files, "NUM_SEARCHED", 1)
    assert links(browser.get("/search?q=old")) == []
    assert links(browser.get(f"/search?q={old.id}")) == [f"/jobs/{old.id}"]
    assert links(browser.get(f"/search?q={old.training_file}")) == [f"/data/{old.training_file}"]
