"""What tests look at and press on the page of a job."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page

from tests.browser.visit import SECONDS
from tests.support.waiting import wait_for

LOSS = 'figure[data-keys="train_loss valid_loss"]'
END = 180 * SECONDS


def drawn(page: Page) -> int:
    """The last step in the chart of the loss."""
    return int(page.locator(LOSS).get_attribute("data-last") or 0)


def status(page: Page) -> Locator:
    return page.locator("#job-title .status")


def confirm(page: Page, action: str, sure: str) -> None:
    page.get_by_role("group", name="Actions").get_by_role("button", name=action, exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=sure, exact=True).click()


def until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """The page's own events are only handled while Playwright waits for something."""
    wait_for(lambda: page.wait_for_timeout(100) or condition(), what=what)
