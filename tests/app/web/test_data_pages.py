import json
import re
import shlex
import subprocess
import sys
from html import unescape
from typing import get_args

import httpx
from sqlalchemy import update

from app.models import File, FileStatus, Scope
from app.models.falqon_options import FalqonOptions
from app.models.integrations import IntegrationType
from app.web import job_form
from falqon_core.contract.config import Recipe
from tests.browser import scene
from tests.support.api import Tenant, jsonl
from tests.support.pages import SAME_SITE, token


def upload(browser: httpx.Client, content: bytes = b"", **data: str) -> httpx.Response:
    fields = {"csrf": token(browser.get("/data"))} | data
    return browser.post(
        "/data", data=fields, files={"file": ("rows.jsonl", content or jsonl())}, headers=SAME_SITE
    )


def send(browser: httpx.Client, path: str = "", **fields: str) -> httpx.Response:
    return browser.post(
        f"/jobs/new{path}",
        data={"csrf": token(browser.get("/jobs/new"))} | fields,
        headers=SAME_SITE,
    )


def field_errors(page: httpx.Response) -> dict[str, str]:
    """The errors by the field at which they stand."""
    return {
        name: text
        for name, text in re.findall(r'id="error-(\w*)"[^>]*>([^<]*)<', page.text)
        if text
    }


def test_an_upload_leads_to_the_file_or_back_to_the_new_job(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = upload(browser)
    assert page.url.path == f"/data/{tenant.client.files.list().data[0].id}"
    page = upload(browser, back="/jobs/new")
    assert page.url.path == "/jobs/new"
    assert page.url.params["training_file"] == tenant.client.files.list().data[0].id
    assert "being checked" in page.text
    assert upload(browser, back="//evil.example").url.path.startswith("/data/")


def test_strangers_and_readers_upload_nothing(browser: httpx.Client, tenant: Tenant) -> None:
    files = {"file": ("rows.jsonl", jsonl())}
    with httpx.Client(base_url=tenant.api.url, verify=False) as stranger:
        assert (
            stranger.post("/data", files=files, headers=SAME_SITE).headers["location"] == "/sign-in"
        )
        stranger.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
        page = stranger.get("/data")
        assert 'type="file"' not in page.text
        assert (
            stranger.post(
                "/data", data={"csrf": token(page)}, files=files, headers=SAME_SITE
            ).status_code
            == 403
        )
        assert "is read-only" in stranger.get("/jobs/new").text
    assert (
        browser.post("/data", data={"csrf": "forged"}, files=files, headers=SAME_SITE).status_code
        == 403
    )
    assert tenant.client.files.list().data == []
    assert tenant.stored() == []


def test_a_file_beyond_the_quota_is_refused_before_it_is_read(
    browser: httpx.Client, tenant: Tenant
) -> None:
    tenant.limit(max_storage_bytes=1)
    headers = SAME_SITE | {"content-type": "multipart/form-data; boundary=x"}
    page = browser.post("/data", content=b"no form" * 2**16, headers=headers)
    assert page.status_code == 429
    assert "and its quota is 1." in page.text


def test_a_file_that_is_too_large_is_refused_by_a_page(
    browser: httpx.Client, tenant: Tenant
) -> None:
    for size in (2**20 + 1, 2**21):  # past the limit of a file, and past that of a request
        page = upload(browser, b"x" * size)
        assert page.status_code == 413
        assert 'role="alert"' in page.text
    assert tenant.client.files.list().data == []


def test_errors_stand_by_line_and_the_list_tells_what_is_known(
    browser: httpx.Client, tenant: Tenant
) -> None:
    bad = tenant.upload(b'{"text": "fine"}\n{"text": 7}\n')
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", browser.get(f"/data/{bad}").text))
    assert "2 10 text expected text write text in quotes" in text
    good = tenant.upload()
    scene.inspected(tenant, good)
    tenant.job(training_file=good, validation_file=tenant.upload())
    tenant.job(training_file=good)
    rows = {
        id_: re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row))
        for id_, row in re.findall(
            r'<tr id="row-(file-\w+)">(.*?)</tr>', browser.get("/data").text, re.DOTALL
        )
    }
    assert set(rows) == {file.id for file in tenant.client.files.list()}
    assert "not valid" in rows[bad]
    assert re.search(r" valid .* 12 messages 240 2 ", rows[good])
    page = browser.get(f"/data/{good}").text
    for words in (
        "<mark>It is four.</mark>",
        "Line 1, a later turn",
        "1 exact duplicate: ",
        "3 tokens dropped",
        "of 12 sequences",
        "Jobs with this file",
        '<a href="/data">Data</a></p>',
    ):
        assert words in page
    assert page.count("<mark>It is four.</mark>") == 2


def test_the_form_takes_the_tolerance_that_the_page_of_the_file_names(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload(jsonl(29) + b"{oops\n")
    page = re.sub(r"\s+", " ", browser.get(f"/data/{file}").text)
    (named,) = re.findall("set “Tolerated bad records” to (.+?) or more", page)
    fields = {"training_file": file, "model": tenant.base_model}
    estimated = send(browser, "/estimate", max_bad_record_fraction=named, **fields)
    assert field_errors(estimated) == {}
    less = str(float(named) - 1e-6)
    refused = send(browser, "/estimate", max_bad_record_fraction=less, **fields)
    assert list(field_errors(refused)) == ["training_file"]


def test_lengths_are_counted_and_show_where_they_are_truncated(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    scene.inspected(tenant, file, edges=(1024.5, 2048.5, 3072.5))
    page = browser.get(f"/data/{file}").text.replace("\u202f", " ")
    lengths = page[page.index('<figure class="histogram"') : page.index("</figure>")]
    assert "highest bar: 9 sequences" in lengths
    rows = re.findall(r'<th scope="row">([^<]+)</th><td class="number">(\d+)</td>', lengths)
    assert rows == [("1 025 to 2 048", "3"), ("2 049 to 3 072", "9")]
    assert 'class="cut" x1="2049"' in lengths
    assert lengths.count('class="too-long"') == 1
    assert "truncated at 2 048" in lengths
    scene.inspected(tenant, long := tenant.upload(), edges=(0.5, 100.5, 4096.5))
    page = browser.get(f"/data/{long}").text.replace("\u202f", " ")
    assert "<span>more than 100: 9</span>" in page
    assert 'viewBox="1 0 200 100"' in page, "as wide as the others"


def test_a_file_is_deleted_unless_a_job_needs_it(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    used = tenant.upload()
    job = tenant.job(training_file=used).id
    for id_ in (file, used):
        page = browser.post(
            f"/data/{id_}/delete", data={"csrf": token(browser.get("/data"))}, headers=SAME_SITE
        )
        assert (f"{job}, which has not ended" in page.text) is (id_ == used)
    ids = [listed.id for listed in tenant.client.files.list()]
    assert (file in ids, used in ids) == (False, True)
    assert browser.get(f"/data/{used}/content").content == jsonl()


def test_the_job_form_takes_no_file_or_job_of_another_project(
    browser: httpx.Client, tenant: Tenant
) -> None:
    other = Tenant(tenant.api)
    file = other.upload()
    assert browser.get(f"/jobs/new?like={other.job().id}").status_code == 404
    assert (
        "No such File"
        in field_errors(browser.get(f"/jobs/new?training_file={file}"))["training_file"]
    )
    assert (
        "no such file"
        in field_errors(send(browser, training_file=file, model=tenant.base_model))["training_file"]
    )


def test_every_setting_has_a_field_or_a_reason_why_not(browser: httpx.Client) -> None:
    field = r'<(?:input|select|textarea)\b[^>]* name="(\w+)"'
    names = set(re.findall(field, browser.get("/jobs/new").text))
    settings = Recipe.model_fields.keys() | FalqonOptions.model_fields.keys()
    fields = {job_form.OPENAI_NAMES.get(name, name) for name in settings}
    assert fields - names == job_form.LEFT_OUT.keys()
    assert {field.tracker for field in job_form.TRACKERS} == set(get_args(IntegrationType))


def test_errors_stand_at_their_fields_and_nothing_is_made(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    several = {
        "n_epochs": "many",
        "rank": "9999",
        "learning_rate": "2",
        "max_cost_usd": "x",
        "suffix": "no spaces",
        "packing": "maybe",
    }
    for path in ("", "/estimate"):
        page = send(browser, path, training_file=file, model=tenant.base_model, **several)
        assert field_errors(page) == {
            "n_epochs": "Write a whole number.",
            "rank": "Write 1024 or less.",
            "learning_rate": "Write 1 or less.",
            "max_cost_usd": "Write dollars with at most four decimals, such as 2.50.",
            "suffix": "Write letters, digits, dots, underscores and hyphens only.",
            "packing": "Write true or false.",
        }
        assert 'value="many"' in page.text
    for fields, name in (
        ({"rank": "512"}, "rank"),  # more than a layer has
        ({"weight_decay": "0.1", "base_copy": "none"}, "weight_decay"),
        ({"early_stopping_patience": "2", "validation_fraction": "0"}, "early_stopping_patience"),
        ({"chat_template_kwargs": '{"tools": 1}'}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "no thinking"}, "chat_template_kwargs"),
        ({"chat_template_kwargs": '{"no thinking": 1}'}, "chat_template_kwargs"),
        ({"model": "none-such"}, "model"),
        ({"training_file": ""}, "training_file"),
    ):
        assert list(
            field_errors(
                send(browser, **{"training_file": file, "model": tenant.base_model} | fields)
            )
        ) == [name]
    assert list(tenant.client.fine_tuning.jobs.list()) == []


def test_the_estimate_is_the_apis(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    page = browser.post(
        "/jobs/new/estimate",
        data={
            "csrf": token(browser.get("/jobs/new")),
            "training_file": file,
            "model": tenant.base_model,
            "n_epochs": "7",
            "rank": "16",
        },
        headers=SAME_SITE | {"hx-request": "true"},
    )
    assert re.findall(r'hx-target="#(\w+)"', page.text)[:3] == ["report", "plan", "code"]
    body = {
        "model": tenant.base_model,
        "training_file": file,
        "hyperparameters": {"n_epochs": 7},
        "falqon": {"rank": 16},
    }
    estimate = tenant.http.post("/v1/fine_tuning/estimates", json=body).json()
    assert f"<dt>Steps</dt><dd>{estimate['steps']}<small>7 epochs of 12 records" in page.text
    assert f"{estimate['memory_bytes'] / 2**20:.1f} MiB" in page.text


def form_of(page: httpx.Response) -> dict[str, str]:
    """What a browser would send of the page's form of a job."""
    boxes = (
        r'<(?:input|textarea) id="\w+" name="(\w+)"(?: value="([^"]*)")?[^>]*>'
        r"(?:([^<]*)</textarea>)?"
    )
    filled = {name: unescape(value or text) for name, value, text in re.findall(boxes, page.text)}
    for name, options in re.findall(
        r'<select id="\w+" name="(\w+)"[^>]*>(.*?)</select>', page.text, re.DOTALL
    ):
        chosen = re.search(r'value="([^"]*)" selected', options)
        filled[name] = unescape(chosen[1]) if chosen else ""
    return {name: text.replace("\n", "\r\n") for name, text in filled.items()}


def test_metadata_priority_and_trackers_are_filled_in_and_refused_at_their_fields(
    browser: httpx.Client, tenant: Tenant
) -> None:
    filled = {"training_file": tenant.upload(), "model": tenant.base_model}
    pairs = {
        "metadata": "team = support\r\n\r\nrank=8",
        "priority": "2",
        "tensorboard": "true",
        "wandb_project": "desk",
        "wandb_tags": "support, ",
    }
    job = tenant.http.get(
        f"/v1/fine_tuning/jobs/{send(browser, **filled, **pairs).url.path[6:]}"
    ).json()
    assert (job["metadata"], job["priority"]) == ({"team": "support", "rank": "8"}, 2)
    assert job["integrations"] == [
        {"type": "tensorboard"},
        {"type": "wandb", "wandb": {"project": "desk", "tags": ["support"]}},
    ]
    for wrong, name in (
        ({"metadata": "team"}, "metadata"),
        ({"metadata": "a=1\na=2"}, "metadata"),
        ({"metadata": f"rank={'x' * 513}"}, "metadata"),
        ({"priority": "11"}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"integrations": "wandb"}, "integrations"),
        ({"integrations": '[{"type": "wandb"}]'}, "integrations"),
        ({"integrations": '[{"type": "wandb", "wandb": {}}]'}, "integrations"),
        ({"tensorboard": "true", "wandb_name": "first"}, "wandb_project"),
        ({"trackio_project": "x" * 129}, "trackio_project"),
    ):
        assert list(field_errors(send(browser, **filled, **wrong))) == [name]


def test_the_same_request_as_curl_and_as_python(browser: httpx.Client, tenant: Tenant) -> None:
    """What is shown is run, with a key, and makes the same job."""
    file = tenant.upload()
    more = {"priority": "2", "metadata": "team=support"}
    page = send(
        browser,
        "/estimate",
        training_file=file,
        model=tenant.base_model,
        suffix="told",
        rank="8",
        n_epochs="2",
        max_seconds="60",
        **more,
    )
    curl, python = (
        unescape(code)
        for code in re.findall(r"<code>((?:curl|from openai).*?)</code>", page.text, re.DOTALL)
    )
    environment = {"OPENAI_API_KEY": tenant.key, "PATH": "/usr/bin:/bin"}
    ids = [
        json.loads(
            subprocess.run(
                ["/bin/sh", "-c", curl], env=environment, capture_output=True, check=True
            ).stdout
        )["id"],
        subprocess.run(
            [sys.executable, "-c", python],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip(),
        send(
            browser,
            training_file=file,
            model=tenant.base_model,
            suffix="told",
            rank="8",
            n_epochs="2",
            max_seconds="60",
            **more,
        ).url.path[6:],
    ]
    jobs = [tenant.http.get(f"/v1/fine_tuning/jobs/{id_}").json() for id_ in ids]
    assert len(set(ids)) == 3
    assert all(
        (job["config"], job["budget"], job["suffix"])
        == (jobs[0]["config"], jobs[0]["budget"], "told")
        for job in jobs
    )
    assert all((job["priority"], job["metadata"]) == (2, {"team": "support"}) for job in jobs)
    assert shlex.split(curl)[-1].startswith("{")


def test_preferences_train_with_the_method_they_are_for(
    browser: httpx.Client, tenant: Tenant
) -> None:
    turns = [{"role": "user", "content": "Two and two?"}]
    answers = {
        f"{kind}_output": [{"role": "assistant", "content": kind}]
        for kind in ("preferred", "non_preferred")
    }
    file = tenant.upload(
        (json.dumps({"input": {"messages": turns}} | answers) + "\n").encode() * 12
    )
    page = send(browser, training_file=file, model=tenant.base_model)
    assert page.url.path.startswith("/jobs/ftjob-")
    assert tenant.client.fine_tuning.jobs.retrieve(page.url.path[6:]).method.type == "dpo"  # type: ignore[union-attr]


def test_the_page_of_a_file_without_its_bytes_reports_the_loss(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file_id = tenant.upload()
    tenant.api.storage.delete(f"projects/{tenant.project_id}/files/{file_id}")
    page = browser.get(f"/data/{file_id}")
    assert (page.status_code, "bytes are missing" in page.text) == (200, True)
    failed = {"status": FileStatus.ERROR, "status_details": "Nobody <i>could</i>.", "report": None}
    with tenant.api.database.transaction() as session:
        session.execute(update(File).where(File.id == file_id).values(**failed))
    page = browser.get(f"/data/{file_id}")
    assert "Nobody &lt;i&gt;could&lt;/i&gt;." in page.text
    assert "are not checked" not in page.text
    form = {"csrf": token(page)}
    deleted = browser.post(f"/data/{file_id}/delete", data=form, headers=SAME_SITE)
    assert f"{file_id} is deleted." in deleted.text
