import hashlib
import html
import io
import re
import tarfile
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import update

from app.base.database import MAX_COUNTED
from app.base.ids import new_id
from app.catalogue.service import MAX_OFFERED
from app.models import Artifact, Export, Job, Model, OperationStatus, Scope
from app.web.text import counted, model_page
from falqon_core.contract.certificate import CERTIFICATE, HeldOut
from falqon_core.contract.rounding import Rounding
from tests.browser import scene
from tests.support.api import TINY_CONFIG, Api, Tenant
from tests.support.pages import SAME_SITE, token

START = datetime(2026, 1, 1, tzinfo=UTC)


def a_model(tenant: Tenant) -> str:
    """Of a job that has ended."""
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    return scene.a_model(tenant, job_id)


def post(browser: httpx.Client, path: str, **form: str) -> httpx.Response:
    return browser.post(path, data={"csrf": token(browser.get("/")), **form}, headers=SAME_SITE)


def settle(tenant: Tenant, **values: object) -> None:
    """What a worker makes of the exports of this project."""
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Export).where(Export.project_id == tenant.project_id).values(**values)
        )


def test_models_are_listed_with_what_they_came_from(browser: httpx.Client, tenant: Tenant) -> None:
    assert "Your fine-tuned models appear here" in browser.get("/models").text
    objects = scene.scene(tenant)
    other = a_model(Tenant(tenant.api))
    page = browser.get("/models").text
    for link in (
        model_page(objects.model),
        model_page(tenant.base_model),
        f"/jobs/{objects.succeeded}",
    ):
        assert f'href="{link}"' in page
    assert other not in page
    assert objects.model in browser.get(f"/models?q={objects.model[-8:].upper()}").text
    assert "No name contains “nowhere”" in browser.get("/models?q=nowhere").text


def test_a_model_page_has_the_losses_as_served(browser: httpx.Client, tenant: Tenant) -> None:
    objects = scene.scene(tenant)
    assert "FP8 weights and activations" not in browser.get(model_page(objects.model)).text
    losses = {"valid_loss_fp8_weights": 1.5, "valid_loss_as_served": 1.75}
    with tenant.api.database.transaction() as session:
        progress = scene.progress(scene.STEPS).model_copy(update=losses)
        session.execute(update(Job).where(Job.id == objects.succeeded).values(progress=progress))
    for path in (model_page(objects.model), f"/jobs/{objects.succeeded}"):
        page = browser.get(path).text
        assert "<dt>FP8 weights</dt><dd>1.5<small>" in page
        assert "<dt>FP8 weights and activations</dt><dd>1.75<small>" in page
    export = f"{objects.model}:gguf"
    tenant.add_model(
        export, project_id=tenant.project_id, base=tenant.base_model, job_id=objects.succeeded
    )
    assert "FP8 weights and activations" not in browser.get(model_page(export)).text


def test_pages_show_the_requirements_of_a_models_inference(
    browser: httpx.Client, tenant: Tenant
) -> None:
    model = new_id("gemma-")
    with tenant.api.database.transaction() as session:
        config = TINY_CONFIG | {"model_type": "gemma2"}
        session.add(Model(id=model, config=config, bytes=1))
    job = tenant.job(model=model)
    plan = browser.get(f"/jobs/new?training_file={job.training_file}&model={model}")
    for page in (plan, browser.get(f"/jobs/{job.id}"), browser.get(model_page(model))):
        text = html.unescape(page.text)
        assert "there is no GGUF for the architecture 'gemma2'. vLLM on the worker" in text


def test_the_list_links_nothing_that_was_deleted(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    model_id = new_id("ft:tiny:acme::")
    tenant.add_model(model_id, project_id=tenant.project_id, base="gone", job_id=job_id)
    page = browser.get("/models").text
    assert f'href="/jobs/{job_id}"' in page
    assert "gone<small>deleted</small>" in page
    tenant.client.fine_tuning.jobs.cancel(job_id)
    tenant.http.delete(f"/v1/fine_tuning/jobs/{job_id}").raise_for_status()
    page = browser.get("/models").text
    assert f'href="/jobs/{job_id}"' not in page
    assert f"job {job_id[-8:]}<small>deleted</small>" in page


def test_a_model_tells_its_files_its_line_and_its_certificate(
    browser: httpx.Client, tenant: Tenant
) -> None:
    objects = scene.scene(tenant)
    hub_id = tenant.http.get(f"/v1/models/{objects.model}").json()["hub_id"]
    page = browser.get(model_page(objects.model)).text
    folder = objects.model.replace(":", "-")
    for text in (
        f"<code>falqon download {objects.model} --output {folder}</code>",
        f"<code>HF_ENDPOINT={tenant.api.url}/hub HF_TOKEN=$FALQON_API_KEY "
        f"hf download {hub_id} --local-dir {folder}</code>",
        f"<code>vllm serve ./{folder}</code>",
        hashlib.sha256(b"bytes").hexdigest(),
        f'href="/jobs/{objects.succeeded}"',
        f'<a href="/data/{objects.file}">rows.jsonl</a>',
        f'href="{model_page(tenant.base_model)}"',
        "all 2 checks passed",
        "28 tensors, bit for bit",
        "0.0014",
        "0.7351",
        "305 tokens of the validation data",
    ):
        assert text in page
    base = browser.get(model_page(tenant.base_model)).text
    assert "/delete" not in base
    assert "Base models have none" in base


def test_a_certificate_that_says_no_is_shown_so_and_one_that_cannot_be_read_breaks_nothing(
    browser: httpx.Client, tenant: Tenant
) -> None:
    model = a_model(tenant)
    path = tenant.api.storage.local_path(f"models/{model}/{CERTIFICATE}")
    assert path is not None
    path.write_text(
        scene.certificate().model_dump_json().replace('"passed":true', '"passed":false', 1)
    )
    assert "1 of 2 checks passed" in browser.get(model_page(model)).text
    certificate = scene.certificate()
    bits, loss = certificate.checks
    unusual = loss.model_copy(update={"passed": False, "strict": False})
    device = certificate.device.model_copy(update={"fallback_kernels": ["topk.fold_rows"]})
    on_a_gpu = certificate.model_copy(update={"checks": [bits, unusual], "device": device})
    path.write_text(on_a_gpu.model_dump_json())
    page = browser.get(model_page(model)).text
    for text in ("1 of 2 checks passed", ">unusual<", "without the kernels of topk.fold_rows"):
        assert text in page
    assert ">failed<" not in page
    for damage in (lambda: path.write_text("{}"), path.unlink):
        damage()
        page = browser.get(model_page(model))
        assert (page.status_code, "has no readable certificate" in page.text) == (
            200,
            True,
        )


def test_the_line_goes_back_to_the_first_base_and_says_what_is_gone(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first = a_model(tenant)
    job_id = tenant.job().id
    second = f"ft:{tenant.base_model}:acme:again:00000000"
    tenant.add_model(second, project_id=tenant.project_id, base=first, job_id=job_id)
    tenant.add_model(f"{second}:bf16", project_id=tenant.project_id, base=first, job_id=job_id)
    with tenant.api.database.transaction() as session:
        session.execute(update(Model).where(Model.id == f"{second}:bf16").values(format="bf16"))
    lineage = (
        browser.get(model_page(f"{second}:bf16"))
        .text.partition('<ol class="line">')[2]
        .partition("</ol>")[0]
    )
    assert re.findall(r'href="(/models/[^"]+)"', lineage) == [
        model_page(second),
        model_page(first),
        model_page(tenant.base_model),
    ]
    tenant.client.models.delete(first)
    lineage = (
        browser.get(model_page(second)).text.partition('<ol class="line">')[2].partition("</ol>")[0]
    )
    assert f"<code>{first}</code> <span" in lineage
    assert tenant.base_model not in re.findall(r'href="/models/([^"]+)"', lineage)


def test_an_export_is_asked_for_and_followed(browser: httpx.Client, tenant: Tenant) -> None:
    model = a_model(tenant)
    here = model_page(model)
    assert 'value="gguf"' not in browser.get(here).text
    assert (
        "there is no GGUF for the architecture"
        in post(browser, f"{here}/exports", format="gguf").text
    )
    assert "format: " in post(browser, f"{here}/exports", format="nothing").text
    page = post(browser, f"{here}/exports", format="bf16").text
    assert "A worker creates the bf16 format" in page
    assert "in progress" in page
    assert f'hx-sse:connect="{here}/live"' in page
    assert [
        export["status"] for export in tenant.http.get(f"/v1/models/{model}/exports").json()["data"]
    ] == ["in_progress"]
    settle(tenant, status=OperationStatus.FAILED, error_code="x", error_message="The disk is full.")
    page = browser.get(here).text
    assert "The disk is full." in page
    assert 'value="bf16"' in page
    assert "in progress" in post(browser, f"{here}/exports", format="bf16").text
    settle(tenant, status=OperationStatus.COMPLETED)
    tenant.add_model(
        f"{model}:bf16", project_id=tenant.project_id, base=tenant.base_model, job_id="ftjob-1"
    )
    assert f'href="{model_page(f"{model}:bf16")}"' in browser.get(here).text
    held_out = HeldOut(source="validation", num_rows=12, num_tokens=99)
    settle(tenant, rounding=Rounding(loss=1.25, loss_fp8=1.0, same_tokens=0.5, held_out=held_out))
    assert (
        "Loss 1.2500, in FP8 1.0000 (12 held-out rows); 50.0% of the tokens are the same"
        in " ".join(browser.get(here).text.split())
    )
    tenant.client.models.delete(f"{model}:bf16")
    assert 'value="bf16"' in browser.get(here).text


def test_a_page_says_how_its_model_answers(browser: httpx.Client, tenant: Tenant) -> None:
    model = a_model(tenant)
    here = model_page(model)

    def panel() -> str:
        text = browser.get(here).text.partition('id="serving"')[2].partition("</section>")[0]
        return " ".join(text.split())

    assert "Merged</strong>: from weights of its own" in panel()
    assert "there is no GGUF" in post(browser, f"{here}/serving", serve_as="shared").text
    with tenant.api.database.transaction() as session:
        row = session.get_one(Model, model)
        row.config = {**row.config, "model_type": "llama"}
    assert "makes the adapter" in post(browser, f"{here}/serving", serve_as="shared").text
    assert "Merged</strong>, until its adapter" in panel()
    held_out = HeldOut(source="validation", num_rows=12, num_tokens=99)
    bound = Rounding(loss=1.25, loss_fp8=1.0, same_tokens=0.5, held_out=held_out)
    settle(tenant, status=OperationStatus.COMPLETED, rounding=bound)
    adapter = f"{model}:gguf_lora"
    tenant.add_model(adapter, project_id=tenant.project_id, base=tenant.base_model)
    for words in ("Shared</strong>: as <a", "On 12 held-out rows its loss is 1.2500", "50.0%"):
        assert words in panel()
    assert "answers merged" in post(browser, f"{here}/serving", serve_as="merged").text
    assert "Merged</strong>: from weights of its own" in panel()


def test_the_stream_brings_the_state_of_exports(browser: httpx.Client, tenant: Tenant) -> None:
    here = model_page(a_model(tenant))
    with browser.stream("GET", f"{here}/live") as stream:
        line = next(line for line in stream.iter_lines() if 'hx-target="#exports"' in line)
    assert line.startswith("data: <hx-partial")


def test_a_drawing_is_nothing_that_a_browser_shows(browser: httpx.Client, tenant: Tenant) -> None:
    model = a_model(tenant)
    name = "training_curve.svg"
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    tenant.store_artifacts(model, {name: drawing})
    for answer in (
        browser.get(f"{model_page(model)}/artifacts/{name}"),
        tenant.http.get(f"/v1/models/{model}/artifacts/{name}"),
    ):
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (
            "application/octet-stream",
            "nosniff",
        )
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_files_come_one_by_one_as_a_tar_and_by_a_link(
    browser: httpx.Client, tenant: Tenant
) -> None:
    model = a_model(tenant)
    here = model_page(model)
    answer = browser.get(f"{here}/artifacts/config.json")
    assert (answer.content, answer.headers["content-disposition"][:10]) == (b"bytes", "attachment")
    with tarfile.open(fileobj=io.BytesIO(browser.get(f"{here}/archive").content)) as tar:
        assert sorted(name.rpartition("/")[2] for name in tar.getnames()) == [
            CERTIFICATE,
            "config.json",
            "model.safetensors",
        ]
    page = post(browser, f"{here}/links", name="config.json", expires_in_seconds="3600").text
    url = html.unescape(re.findall(r"<code>(http[^<]+)</code>", page)[0])
    assert httpx.get(url, verify=False).content == b"bytes"
    for name, seconds, says in (
        ("nothing", "3600", "has no artifact"),
        ("config.json", "x", "expires_in_seconds: "),
        ("", "1", "name: "),
    ):
        assert says in post(browser, f"{here}/links", name=name, expires_in_seconds=seconds).text


def test_deleting_a_model_shows_consequences_and_obstacles(
    browser: httpx.Client, tenant: Tenant
) -> None:
    model = a_model(tenant)
    here = model_page(model)
    assert "3 files" in browser.get(here).text.partition('id="delete"')[2]
    job = tenant.job(model=model)
    assert f"The model is used by {job.id}" in post(browser, f"{here}/delete").text
    tenant.client.fine_tuning.jobs.cancel(job.id)
    answer = post(browser, f"{here}/delete")
    assert (answer.url.path, f"{model} is deleted." in answer.text) == ("/models", True)
    assert browser.get(here).status_code == 404
    refused = post(browser, f"{model_page(tenant.base_model)}/delete")
    assert "only an administrator of the whole service deletes it" in html.unescape(refused.text)


def test_a_reader_downloads_models_and_changes_nothing(api: Api, tenant: Tenant) -> None:
    model = a_model(tenant)
    here = model_page(model)
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as browser:
        browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
        page = browser.get(here).text
        assert set(re.findall(r'action="(/[^"]+)"', page)) == {"/sign-out", f"{here}/links"}
        for action in ("exports", "delete"):
            answer = post(browser, f"{here}/{action}", format="bf16")
            assert (answer.status_code, "needs an API key with the right" in answer.text) == (
                403,
                True,
            )
        assert (
            "until your key is revoked"
            in post(browser, f"{here}/links", name="config.json", expires_in_seconds="60").text
        )
    assert tenant.http.get(f"/v1/models/{model}/exports").json()["data"] == []


def test_a_name_stays_one_word_of_a_command(browser: httpx.Client, tenant: Tenant) -> None:
    model = f"x'; touch /tmp/y; $(id) {tenant.project_id}/<b>"
    tenant.add_model(model, project_id=tenant.project_id)
    with tenant.api.database.transaction() as session:
        session.add(
            Artifact(
                model_id=model, name="config.json", bytes=5, sha256="0" * 64, storage_key=model
            )
        )
    page = browser.get(model_page(model))
    assert page.status_code == 200
    line = re.findall(r"<code>(falqon download [^<]*)</code>", page.text)[0]
    assert html.unescape(line).startswith("""falqon download 'x'"'"'; touch /tmp/y; $(id) """)
    assert "<b>" not in page.text


def test_pages_offer_the_newest_of_many_models(browser: httpx.Client, tenant: Tenant) -> None:
    names = [f"ft:{tenant.base_model}:many::{number:08}" for number in range(MAX_OFFERED + 1)]
    with tenant.api.database.transaction() as session:
        columns = {"project_id": tenant.project_id, "config": {}, "bytes": 1}
        session.add_all(
            Model(id=name, created_at=START + timedelta(seconds=place), **columns)
            for place, name in enumerate(names)
        )
    assert len(tenant.client.models.list().data) > MAX_OFFERED
    page = browser.get("/models").text
    assert f"Showing the newest {MAX_OFFERED} of {MAX_OFFERED + 1}." in page
    assert names[1] in page
    assert names[0] not in page
    assert names[0] in browser.get(f"/models?q={names[0][-8:]}").text
    form = browser.get("/jobs/new").text
    assert (names[0] in form, names[1] in form) == (False, True)
    assert counted(MAX_COUNTED + 1) == f"{counted(MAX_COUNTED)}+"


def test_the_page_names_where_a_base_model_may_come_from(browser: httpx.Client) -> None:
    text = browser.get("/models").text
    for source in ("hf:OWNER/NAME", "MODEL.gguf"):
        assert f"falqon admin models add NAME --source {source}" in text
    assert "a folder with safetensors weights" in text


def test_several_models_are_shown_before_they_are_deleted(
    browser: httpx.Client, tenant: Tenant
) -> None:
    gone, named = a_model(tenant), a_model(tenant)
    tenant.http.post("/v1/aliases", json={"name": "mine", "model": named}).raise_for_status()
    shown = post(browser, "/models/delete", search="ft:", unused_days="", created_days="").text
    assert f'href="{model_page(gone)}"' in shown
    assert "The alias &#39;mine&#39; stands for the model" in shown
    assert browser.get(model_page(gone)).status_code == 200
    nothing = post(browser, "/models/delete", search="ft:", unused_days="9").text
    assert "No model that may be deleted" in nothing
    assert "Delete the models" not in nothing
    for wrong in ({"unused_days": "0"}, {"created_days": "x"}, {}):
        refused = post(browser, "/models/delete", confirmed="yes", **wrong)
        assert "models are deleted" not in refused.text
    done = post(browser, "/models/delete", search="ft:", confirmed="yes").text
    assert "1 models are deleted. 1 in use stay." in done
    assert browser.get(model_page(gone)).status_code == 404
    assert browser.get(model_page(named)).status_code == 200


def test_the_page_of_an_unused_model_says_its_end_until_it_is_pinned(
    browser: httpx.Client, tenant: Tenant
) -> None:
    model = a_model(tenant)
    soon = datetime.now(UTC) + timedelta(days=3)
    with tenant.api.database.transaction() as session:
        session.execute(update(Model).where(Model.id == model).values(expires_at=soon))
    assert "Nobody has used this model for long" in browser.get(model_page(model)).text
    pinned = post(browser, f"{model_page(model)}/pin", pinned="yes").text
    assert "Nobody has used" not in pinned
    assert "Unpin" in pinned
    assert "Unpin" not in post(browser, f"{model_page(model)}/pin").text


def test_the_page_of_a_model_sets_its_replicas(browser: httpx.Client, tenant: Tenant) -> None:
    model = a_model(tenant)
    done = post(browser, f"{model_page(model)}/replicas", replicas="3").text
    assert "The number of replicas is set" in done
    assert 'name="replicas" type="number" min="1" max="16" value="3"' in " ".join(done.split())
    for wrong in ("0", "17", "x", ""):
        refused = post(browser, f"{model_page(model)}/replicas", replicas=wrong).text
        assert "Enter a whole number from 1 to 16." in refused
    with tenant.api.database.read() as session:
        assert session.get_one(Model, model).replicas == 3
