"""Browser windows that notice what must never happen in them."""

from http import HTTPStatus
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROKEN_POLICY = ("Content Security Policy", "Content-Security-Policy")
SECONDS = 1000.0
# A page that shows by itself what has changed asks every few seconds, and the machine may be busy.
PATIENCE = 20 * SECONDS


class Visits:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.faults: list[str] = []

    def page(self, **options: Any) -> Page:
        """A window of its own, without a session."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        self._contexts.append(context)
        context.on("dialog", self._on_dialog)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))
        return context.new_page()

    def sign_in(self, url: str, key: str, **options: Any) -> Page:
        """Without the page for it, which takes longer than many a test."""
        page = self.page(base_url=url, **options)
        answer = page.context.request.post(
            "/sign-in",
            form={"key": key},
            headers={"sec-fetch-site": "same-origin"},
            max_redirects=0,
        )
        assert answer.status == HTTPStatus.SEE_OTHER, answer.text()
        page.goto("/")
        return page

    def sign_in_by_form(self, url: str, key: str, **options: Any) -> Page:
        page = self.page(base_url=url, **options)
        page.goto("/sign-in")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("/")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _on_dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _on_console(self, message: ConsoleMessage) -> None:
        if any(words in message.text for words in BROKEN_POLICY):
            place = message.page.url if message.page else "?"
            self.faults.append(f"console of {place}: {message.text}")
