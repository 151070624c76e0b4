"""The form of a new job: which files it offers, which settings it shows, what a preset fills in,
and that a clone through it asks for the same.
"""

import json
import re
from typing import Any

import httpx
import pytest

from app.jobs.requests import read_recipe
from app.models import Job
from app.models.job_request import JobRequest
from tests.app.web.test_data_pages import field_errors, form_of, send
from tests.support.api import Tenant, jsonl
from tests.support.pages import SAME_SITE, token

PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "Two and two?"}]},
    "preferred_output": [{"role": "assistant", "content": "Four."}],
    "non_preferred_output": [{"role": "assistant", "content": "Five."}],
}
TEXT = {"text": "Four is two and two."}


def upload(tenant: Tenant, name: str, content: bytes) -> str:
    file = tenant.client.files.create(file=(name, content), purpose="fine-tune")
    tenant.check(file.id)
    return file.id


def lines(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode() * 12


def offered(page: httpx.Response, field: str) -> dict[str, str]:
    select = re.findall(rf'<select id="{field}".*?</select>', page.text, re.DOTALL)[0]
    return dict(re.findall(r'<option value="(file-[^"]+)"[^>]*>([^<]*)<', select))


def visible_settings(page: httpx.Response) -> set[str]:
    """Return the settings that not every job has and this one is offered."""
    fields = set(re.findall(r'<div data-field="(\w+)">', page.text))
    assert fields == set(re.findall(r'id="applicable" data-fields="([^"]*)"', page.text)[0].split())
    return fields


def test_valid_files_are_offered_by_name_records_and_age(
    browser: httpx.Client, tenant: Tenant
) -> None:
    good = upload(tenant, "good.jsonl", jsonl())
    upload(tenant, "bad.jsonl", b"{oops}\n")
    tenant.upload(check=False)
    page = browser.get("/jobs/new")
    for field in ("training_file", "validation_file"):
        assert offered(page, field) == {good: "good.jsonl, 12 records, just now"}
    assert "data-search" not in page.text
    notes = upload(tenant, "notes.jsonl", jsonl() + b"{oops}\n")
    label = "notes.jsonl, 12 records, 1 bad line, just now"
    assert offered(browser.get("/jobs/new"), "training_file")[notes] == label
    for number in range(9):
        upload(tenant, f"{number}.jsonl", jsonl())
    assert "data-search" in browser.get("/jobs/new").text


@pytest.mark.parametrize(
    ("content", "words", "fields", "foreign"),
    [
        (jsonl(), "supervised", {"chat_template_kwargs"}, {"beta", "text_overlap_tokens"}),
        (lines(PREFERENCE), "DPO", {"beta", "chat_template_kwargs"}, {"text_overlap_tokens"}),
        (lines(TEXT), "continue them", {"text_overlap_tokens"}, {"beta", "chat_template_kwargs"}),
    ],
    ids=["chats", "preferences", "texts"],
)
def test_the_form_takes_the_objective_from_the_file(
    browser: httpx.Client,
    tenant: Tenant,
    content: bytes,
    words: str,
    fields: set[str],
    foreign: set[str],
) -> None:
    page = browser.get(f"/jobs/new?training_file={upload(tenant, 'rows.jsonl', content)}")
    assert words in page.text
    assert visible_settings(page) >= fields
    assert not visible_settings(page) & foreign


def test_settings_of_another_method_are_neither_shown_nor_sent(
    browser: httpx.Client, tenant: Tenant
) -> None:
    fields = {"training_file": tenant.upload(), "model": tenant.base_model}
    assert {"update_rule", "a_init", "train_a", "alpha"} <= visible_settings(
        send(browser, "/estimate", **fields)
    )
    topk = fields | {"update_rule": "topk"}
    page = send(browser, "/estimate", **topk)
    assert "num_update_rows" in visible_settings(page)
    assert not {"weights", "alpha", "base_copy", "train_a"} & visible_settings(page)
    page = send(browser, "/estimate", **topk, method="qa_lora")
    assert "group_size" in visible_settings(page)
    assert not {"weights", "update_rule", "a_init", "train_a", "quantizer"} & visible_settings(page)
    job_id = send(browser, **topk, method="qa_lora").url.path.rpartition("/")[2]
    config = tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["config"]
    assert (config["method"], config["update_rule"]) == ("qa_lora", "anchored")


def test_a_preset_fills_in_what_it_means(browser: httpx.Client, tenant: Tenant) -> None:
    fields = {"training_file": tenant.upload(), "model": tenant.base_model, "suffix": "kept"}
    best = form_of(send(browser, "/estimate", **fields, preset="best", max_steps="3"))
    assert {name: best[name] for name in ("n_epochs", "max_steps", "validation_fraction")} == {
        "n_epochs": "20",
        "max_steps": "",
        "validation_fraction": "",
    }
    assert best["suffix"] == "kept"
    page = send(browser, "/estimate", **best, preset="quick")
    assert re.findall(r'value="(\w+)"[^>]*aria-pressed="true"', page.text) == ["quick"]
    assert re.search(r"<dt>Steps</dt><dd>20<small>7 epochs of", page.text)
    own = send(browser, "/estimate", **fields, validation_file=tenant.upload(), preset="best")
    assert field_errors(own) == {}


@pytest.mark.parametrize(
    ("num_records", "steps", "patience"),
    [
        (10, {"quick": 20, "balanced": 30, "best": 60}, ""),
        (50, {"quick": 20, "balanced": 108, "best": 216}, "2"),
        (1000, {"quick": 20, "balanced": 675, "best": 1350}, "2"),
    ],
)
def test_presets_follow_the_size_of_the_file(
    browser: httpx.Client,
    tenant: Tenant,
    num_records: int,
    steps: dict[str, int],
    patience: str,
) -> None:
    file = upload(tenant, "rows.jsonl", jsonl(num_records))
    fields = {"training_file": file, "model": tenant.base_model}
    for preset, expected in steps.items():
        page = send(browser, "/estimate", **fields, preset=preset)
        (shown,) = re.findall(r"<dt>Steps</dt><dd>([^<]+)<small>", page.text)
        assert int(re.sub(r"\D", "", shown)) == expected, preset
        assert re.findall(r'value="(\w+)"[^>]*aria-pressed="true"', page.text) == [preset]
    assert form_of(page)["early_stopping_patience"] == patience


def test_a_first_estimate_says_that_most_of_it_is_start_and_export(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.get(f"/jobs/new?training_file={tenant.upload()}&model={tenant.base_model}")
    assert "most of it start and export" in page.text
    assert "&lt; $0.01" in page.text
    assert "$0.0000" not in page.text


def test_a_cap_below_the_start_is_warned_of_at_its_field_and_in_the_estimate(
    browser: httpx.Client, tenant: Tenant
) -> None:
    fields = {"training_file": tenant.upload(), "model": tenant.base_model}
    page = send(browser, "/estimate", **fields, max_seconds="2")
    assert field_errors(page)["max_seconds"].startswith("Start and export alone take about")
    assert page.text.count("the job will pause before its end") == 2
    assert field_errors(send(browser, "/estimate", **fields, max_seconds="90000")) == {}


def test_an_estimate_names_the_fields_that_train_nothing(
    browser: httpx.Client, tenant: Tenant
) -> None:
    record = {"messages": [{"role": "assistant", "content": "a"}], "source": "b"}
    file_id = upload(tenant, "rows.jsonl", lines(record))
    page = browser.get(f"/jobs/new?training_file={file_id}&model={tenant.base_model}")
    assert "fields that train nothing: &#39;source&#39; in" in page.text


def test_a_file_is_inspected_once_its_settings_are_whole(
    browser: httpx.Client, tenant: Tenant
) -> None:
    form = {"csrf": token(browser.get("/jobs/new")), "training_file": tenant.upload()}
    form |= {"model": tenant.base_model, "max_seq_length": "51"}
    headers = SAME_SITE | {"hx-request": "true"}
    for is_typing, parts in (("true", ["plan", "code"]), ("", ["report", "plan", "code"])):
        data = form | {"is_typing": is_typing}
        page = browser.post("/jobs/new/estimate", data=data, headers=headers)
        assert re.findall(r'hx-target="#(\w+)"', page.text)[: len(parts)] == parts
        report = tenant.http.get(f"/v1/files/{form['training_file']}/report").json()
        assert len(report["inspections"]) == (is_typing == "")


def stored_request(tenant: Tenant, job_id: str) -> dict[str, Any]:
    """Return all that a job asked for, however it was spelled."""
    with tenant.api.database.read() as session:
        request: JobRequest = session.get_one(Job, job_id).requested
    requested = read_recipe(request)
    rate = requested.resolved(12, 64).learning_rate
    options = request.falqon
    return {
        name: getattr(request, name)
        for name in JobRequest.model_fields.keys() - {"falqon", "method", "hyperparameters", "seed"}
    } | {
        "recipe": requested.recipe.model_copy(update={"learning_rate": rate}),
        "budget": options.budget,
        "gpu": options.gpu,
        "num_gpus": options.num_gpus,
    }


FULL: dict[str, Any] = {
    "suffix": "kept",
    "seed": 7,
    "priority": -3,
    "metadata": {"team": "support", "note": "a = b"},
    "integrations": [{"type": "wandb", "wandb": {"project": "desk", "tags": ["a<b"]}}],
}


@pytest.mark.parametrize(
    "more",
    [
        {
            "hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5},
            "falqon": {
                "gpu": "cpu",
                "num_gpus": 1,
                "budget": {"max_cost_usd": "1.50", "max_seconds": 90},
                "early_stopping": {"patience": 2},
                "target_modules": ["q_proj", "v_proj"],
                "packing": False,
                "chat_template_kwargs": {"enable_thinking": False},
            },
        },
        {
            "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}},
            "falqon": {"rank": 8, "eval_every": 5, "train_a": True},
        },
        {
            "falqon": {
                "method": "ir_lora",
                "quantizer": "int4",
                "group_size": 16,
                "learning_rate": 0.001,
                "max_steps": 3,
            }
        },
        {"falqon": {"update_rule": "topk", "num_update_rows": 3, "simulate_fp8": True}},
    ],
    ids=["supervised", "preferences", "ir_lora", "topk"],
)
def test_a_clone_that_is_submitted_unchanged_asks_for_the_same(
    browser: httpx.Client, tenant: Tenant, more: dict[str, Any]
) -> None:
    content = lines(PREFERENCE) if "method" in more else jsonl()
    body = {"model": tenant.base_model, "training_file": upload(tenant, "rows.jsonl", content)}
    body |= {"validation_file": upload(tenant, "held-out.jsonl", content)} | FULL | more
    answer = tenant.http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    first = answer.json()["id"]
    page = send(browser, **form_of(browser.get(f"/jobs/new?like={first}")))
    second = page.url.path.removeprefix("/jobs/")
    assert second.startswith("ftjob-"), field_errors(page)
    assert first != second
    assert stored_request(tenant, second) == stored_request(tenant, first)


@pytest.mark.parametrize(
    ("metadata", "wandb", "filled"),
    [
        (
            {"team": "support", "note": "a = b, c: d", "empty": ""},
            {"project": "desk", "tags": ["a<b", "c"]},
            {"tensorboard": "true", "wandb_project": "desk", "wandb_tags": "a<b, c"},
        ),
        (
            {"two\nlines": "x\r\ny", "=": " kept ", "": "none"},
            {"project": "desk", "tags": ["a, b"]},
            {"tensorboard": "", "wandb_project": "", "wandb_tags": ""},
        ),
        (
            {f"{n}": "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 512 for n in range(16)},
            {"project": " ", "tags": []},
            {"tensorboard": "", "wandb_project": "", "wandb_tags": ""},
        ),
    ],
    ids=["lines", "not-lines", "largest"],
)
def test_a_clone_through_the_form_keeps_metadata_priority_and_trackers(
    browser: httpx.Client,
    tenant: Tenant,
    metadata: dict[str, str],
    wandb: dict[str, Any],
    filled: dict[str, str],
) -> None:
    said_before = {
        "metadata": metadata,
        "priority": -3,
        "integrations": [{"type": "tensorboard"}, {"type": "wandb", "wandb": wandb}],
    }
    body = {"model": tenant.base_model, "training_file": tenant.upload()} | said_before
    first = tenant.http.post("/v1/fine_tuning/jobs", json=body).json()
    page = browser.get(f"/jobs/new?like={first['id']}")
    assert {name: form_of(page)[name] for name in filled} == filled
    second = tenant.http.get(
        f"/v1/fine_tuning/jobs/{send(browser, **form_of(page)).url.path[6:]}"
    ).json()
    assert second["id"] != first["id"]
    assert {name: second[name] for name in said_before} == {
        name: first[name] for name in said_before
    }
    assert second["metadata"] == metadata


def test_what_will_serve_it_chooses_the_weights(browser: httpx.Client, tenant: Tenant) -> None:
    fields = {"training_file": tenant.upload(), "model": tenant.base_model}
    page = send(browser, **fields, weights="q4_0")
    assert "What will serve it?" in page.text
    assert "a laptop or Ollama (Q4_0, 4 bits)" in page.text
    assert "q4_0 is a form of llama.cpp&#39;s, and there is no GGUF" in page.text
    job_id = send(browser, **fields, weights="nvfp4").url.path.rpartition("/")[2]
    assert tenant.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["config"]["weights"] == "nvfp4"
