"""The charts of a job's page, as somebody looks closer at them."""

from collections.abc import Sequence

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, ViewportSize, expect

from app.jobs.claims import Claim
from tests.browser import scene
from tests.browser.job_page import LOSS, drawn, until
from tests.browser.visit import Visits
from tests.support.api import Tenant

SPEED = 'figure[data-keys="tokens_per_second"]'


class View:
    """What a chart shows between which ends."""

    def __init__(self, page: Page, place: str = LOSS) -> None:
        self._plot = page.locator(f"{place} .plot")

    def _numbers(self, *names: str) -> list[float]:
        return [float(self._plot.get_attribute(f"data-{name}") or "nan") for name in names]

    @property
    def steps(self) -> list[float]:
        return self._numbers("from", "to")

    @property
    def heights(self) -> list[float]:
        return self._numbers("low", "high")

    def drag(self, page: Page, shares: Sequence[float]) -> None:
        """Over a part of its width."""
        over = self._plot.locator(".u-over")
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        assert box is not None
        for share, act in zip(shares, (page.mouse.down, page.mouse.up), strict=True):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=3)
            act()


def open_job(visits: Visits, tenant: Tenant, num_steps: int) -> tuple[Page, Claim]:
    claim = scene.job(tenant, tenant.upload(), "support-desk", num_steps)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{claim.job_id}")
    until(page, lambda: drawn(page) == num_steps, "the chart is there")
    return page, claim


def train(tenant: Tenant, claim: Claim, steps: range) -> None:
    events = [event for step in steps for event in scene.drafts(step)]
    scene.write(tenant, claim, events, scene.progress(steps[-1]))


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Loss")


def test_a_zoom_survives_every_setting_and_what_the_stream_brings(
    visits: Visits, tenant: Tenant
) -> None:
    page, claim = open_job(visits, tenant, 15)
    loss = View(page)
    assert loss.steps == [1, 15]
    page.locator(f"{LOSS} canvas").evaluate("canvas => { canvas.dataset.first = '1'; }")
    loss.drag(page, (0.25, 0.75))
    until(page, lambda: loss.steps != [1, 15], "it zooms")
    zoomed = loss.steps
    assert zoomed == pytest.approx([4.5, 11.5], abs=0.3)
    assert View(page, SPEED).steps == zoomed
    page.get_by_label("Smoothing").first.press("ArrowRight")
    page.get_by_role("checkbox", name="Log scale").check()
    assert loss.steps == zoomed
    page.get_by_label("Against").select_option("time")
    assert loss.steps == pytest.approx([0.6 * step for step in zoomed])
    page.get_by_label("Against").select_option("steps")
    train(tenant, claim, range(16, 46))  # from dots to a line, and from a line to a smoothed one
    until(page, lambda: drawn(page) == 45, "it goes on")
    assert loss.steps == pytest.approx(zoomed)
    page.get_by_role("button", name="Whole range").first.click()
    assert loss.steps == [1, 45]
    expect(page.locator(f"{LOSS} canvas")).to_have_attribute("data-first", "1")


def test_an_expanded_chart_has_its_own_scale_and_range(visits: Visits, tenant: Tenant) -> None:
    page, _ = open_job(visits, tenant, 80)
    loss, speed, large = View(page), View(page, SPEED), View(page, "dialog")
    before, before_speed = loss.heights, speed.heights
    page.get_by_role("checkbox", name="Log scale").check()
    until(page, lambda: loss.heights != before, "the loss is logarithmic")
    assert speed.heights == before_speed
    page.get_by_role("checkbox", name="Log scale").uncheck()
    expand = page.get_by_role("button", name="Expand Loss")
    expand.press("Enter")
    expect(dialog(page).locator("canvas")).to_be_visible()
    dialog(page).get_by_label("From").fill("0.1")
    dialog(page).get_by_label("to", exact=True).fill("10")
    until(page, lambda: large.heights == [0.1, 10], "the range is what was asked for")
    dialog(page).get_by_label("Scale").select_option("logarithmic")
    until(page, lambda: large.heights == pytest.approx([-1, 1]), "as logarithms")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_be_hidden()
    expect(expand).to_be_focused()
    assert loss.heights == pytest.approx(before)
    page.get_by_text("System and optimiser").click()
    page.get_by_role("button", name="Expand Speed").click()
    expect(page.get_by_role("dialog").get_by_label("Smoothing")).to_be_visible()
    expect(page.get_by_role("dialog").get_by_label("Scale")).to_be_hidden()


def test_a_legend_has_the_newest_values_until_somebody_points(
    visits: Visits, tenant: Tenant
) -> None:
    page, claim = open_job(visits, tenant, 15)
    values = page.locator(f"{LOSS} .u-legend .u-value:visible")
    expect(values.first).to_have_text("15")
    assert "\N{EN DASH}" not in values.all_text_contents()
    train(tenant, claim, range(16, 21))
    expect(values.first).to_have_text("20")
    page.locator(f"{LOSS} .u-over").hover()
    expect(values.first).not_to_have_text("20")
    page.mouse.move(0, 0)
    expect(values.first).to_have_text("20")


def test_a_finger_moves_the_cursor(visits: Visits, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "support-desk", 15)
    phone: ViewportSize = {"width": 390, "height": 844}
    page = visits.sign_in(tenant.api.url, tenant.key, has_touch=True, viewport=phone)
    page.goto(f"/jobs/{claim.job_id}")
    until(page, lambda: drawn(page) == 15, "the chart is there")
    over = page.locator(f"{LOSS} .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    touch = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.8), ("touchMove", 0.6), ("touchMove", 0.3)):
        x, y = box["x"] + share * box["width"], box["y"] + box["height"] / 2
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    value = page.locator(f"{LOSS} .u-legend .u-value:visible").first
    expect(value).to_have_text("5")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_buttons_of_a_chart_stand_on_the_line_of_its_title(
    visits: Visits, tenant: Tenant, width: int
) -> None:
    claim = scene.job(tenant, tenant.upload(), "support-desk", 40)
    viewport: ViewportSize = {"width": width, "height": 900}
    page = visits.sign_in(tenant.api.url, tenant.key, viewport=viewport)
    page.goto(f"/jobs/{claim.job_id}")
    until(page, lambda: drawn(page) == 40, "the chart is there")
    page.get_by_text("System and optimiser").click()
    lines = page.locator("figure.chart:visible").evaluate_all(
        """all => all.map((it) => {
            const middle = (part) => {
                const {top, bottom} = it.querySelector(part).getBoundingClientRect();
                return (top + bottom) / 2;
            };
            return Math.abs(middle("h3") - middle("[data-png]"));
        })"""
    )
    assert max(lines) < 8


def test_a_picture_says_by_itself_what_it_shows(visits: Visits, tenant: Tenant) -> None:
    page, _ = open_job(visits, tenant, 80)
    page.get_by_text("System and optimiser").click()
    names = page.locator("figure.chart:visible").evaluate_all("all => all.map((one) => one.title)")
    assert len(names) == 7, "rewards and GPU have no value"
    with page.expect_download() as download:
        page.locator(LOSS).get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == "support-desk-loss.png"
    picture = Image.open(download.value.path()).convert("RGB")
    width = page.locator(f"{LOSS} .uplot").evaluate("plot => plot.clientWidth")
    assert picture.width >= 2 * width
    ground = picture.getpixel((0, 0))

    def colors(top: int, bottom: int) -> set[object]:
        band = picture.crop((0, top, picture.width, bottom))
        return {color for _, color in band.getcolors(2**24) or []} - {ground}

    assert colors(0, 80), "the title"
    assert {(0x0A, 0x5B, 0xB0), (0xB3, 0x47, 0x00)} <= colors(
        picture.height - 60, picture.height
    ), "training and validation"


TEXTS = """
    window.texts = new Set();
    const fillText = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
        window.texts.add(text);
        fillText.call(this, text, ...more);
    };
"""


def test_ticks_are_whole_steps(visits: Visits, tenant: Tenant) -> None:
    claim = scene.job(tenant, tenant.upload(), "short", 3)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.add_init_script(TEXTS)
    page.goto(f"/jobs/{claim.job_id}")
    until(page, lambda: drawn(page) == 3, "the chart is there")
    texts = set(page.evaluate("[...window.texts]"))
    assert {"1", "2", "3"} <= texts
    assert not {"1.5", "2.5"} & texts


def test_a_metric_without_values_has_no_chart(visits: Visits, tenant: Tenant) -> None:
    job = tenant.job()
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{job.id}")
    charts = page.get_by_role("region", name="Training", exact=True)
    expect(charts).to_contain_text("The curves begin with the first step.")
    expect(charts.locator("figure:visible")).to_have_count(0)
    tenant.client.fine_tuning.jobs.cancel(job.id)
    expect(charts).to_be_hidden()
