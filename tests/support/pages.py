"""What a browser does with the dashboard, without one."""

import re

import httpx

from tests.support.api import Tenant

SAME_SITE = {"sec-fetch-site": "same-origin"}


def token(page: httpx.Response) -> str:
    """What a form of this page carries."""
    return re.findall(r'name="csrf" value="([^"]+)"', page.text)[0]


def sign_in(browser: httpx.Client, tenant: Tenant) -> httpx.Response:
    return browser.post("/sign-in", data={"key": f" {tenant.key} "}, headers=SAME_SITE)
