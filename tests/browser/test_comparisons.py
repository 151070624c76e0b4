"""Tables that compare: all their columns are seen at once, and the name of a row always is."""

from playwright.sync_api import Page, ViewportSize, expect

from tests.app.web.test_evaluation_page import an_evaluation
from tests.browser.job_page import confirm
from tests.browser.scene import scene
from tests.browser.visit import Visits
from tests.contract.test_studies import create, finish
from tests.support.api import Tenant

LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


def hidden_width(page: Page) -> int:
    """Return the pixels of the widest table that are beside what is seen of it."""
    widths: list[int] = page.locator(".scroll:has(.side-by-side)").evaluate_all(
        "all => all.map(it => it.scrollWidth - it.clientWidth)"
    )
    return max(widths)


def test_a_study_of_three_methods_is_seen_whole_and_keeps_its_first_column(
    visits: Visits, tenant: Tenant
) -> None:
    study = create(tenant, methods=["falqon", "lora", "qlora"], seeds=[0, 1])
    for number, job in enumerate(study["jobs"]):
        finish(tenant, job["id"], 1.25 + number / 8)
    page = visits.sign_in(tenant.api.url, tenant.key, viewport=LAPTOP)
    page.goto(f"/studies/{study['id']}")
    table = page.get_by_role("group", name="Comparison")
    expect(table.locator("td[data-best]").first).to_be_visible()
    assert hidden_width(page) == 0
    page.set_viewport_size(PHONE)
    table.evaluate("it => it.scrollTo(400, 0)")
    expect(table.get_by_role("rowheader").first).to_be_in_viewport(ratio=0.9)


def test_six_jobs_are_compared_without_scrolling(visits: Visits, tenant: Tenant) -> None:
    ids = scene(tenant)
    compared = [ids.running, ids.succeeded, ids.failed]
    compared += [tenant.job(suffix=f"a-rather-long-name-{number}").id for number in range(3)]
    page = visits.sign_in(tenant.api.url, tenant.key, viewport=LAPTOP)
    page.goto("/compare?" + "&".join(f"job={id_}" for id_ in compared))
    page.get_by_text("Same settings").click()
    assert hidden_width(page) == 0


def test_the_jobs_of_a_study_are_shown_when_its_row_is_opened(
    visits: Visits, tenant: Tenant
) -> None:
    study = create(tenant, name="rates", seeds=[0, 1])
    page = visits.sign_in(tenant.api.url, tenant.key)
    row = page.locator(f"#row-{study['jobs'][0]['id']}")
    expect(row).to_be_hidden()
    page.get_by_text("4 jobs: 4 queued").click()
    expect(row).to_be_visible()
    tenant.client.fine_tuning.jobs.cancel(study["jobs"][0]["id"])
    expect(page.get_by_text("4 jobs: 3 queued, 1 cancelled")).to_be_visible()
    expect(row).to_be_visible()


def test_three_rates_of_a_job_are_tried_from_its_page(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key, viewport=PHONE)
    page.goto(f"/jobs/{tenant.job(suffix='desk').id}")
    confirm(page, "Try three rates", "Start the study")
    expect(page.get_by_role("heading", level=1)).to_have_text("desk, three rates")
    page.goto("/")
    row = page.get_by_role("row").filter(has_text="desk, three rates")
    expect(row).to_contain_text("3 jobs: 3 queued")


def test_methods_are_compared_from_the_form_of_a_job(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/new?training_file={tenant.upload()}&model={tenant.base_model}")
    page.get_by_text("Compare methods or rates instead").click()
    start = page.get_by_role("button", name="Start the study")
    start.click()
    expect(page.get_by_text("Choose methods, or three learning rates.")).to_be_visible()
    methods = page.get_by_role("group", name="Methods")
    for name in ("FALQON", "LoRA"):
        methods.get_by_label(name, exact=True).check()
    start.click()
    table = page.get_by_role("group", name="Comparison")
    expect(table.get_by_role("rowheader")).to_have_count(2)


def test_answers_to_the_same_prompts_are_read_side_by_side(visits: Visits, tenant: Tenant) -> None:
    ids = [tenant.job(suffix=name).id for name in ("calm", "brisk")]
    for job_id in ids:
        an_evaluation(tenant, job_id=job_id, repeated=5)
    page = visits.sign_in(tenant.api.url, tenant.key, viewport=LAPTOP)
    page.goto("/compare?" + "&".join(f"job={id_}" for id_ in ids))
    answers = page.get_by_role("region", name="Answers to the same prompts")
    figures = answers.get_by_role("article").first.get_by_role("figure")
    expect(figures).to_contain_text(["calm", "brisk", "Expected"])
    tops = figures.evaluate_all("all => all.map(it => it.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "in one row"
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    answers.get_by_role("link", name="Next").click()
    expect(answers).to_contain_text("Page 2 of 2")
    expect(answers).to_be_in_viewport()
