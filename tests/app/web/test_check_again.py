import httpx

from tests.browser import scene
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def test_a_file_is_judged_anew_by_a_button(browser: httpx.Client, tenant: Tenant) -> None:
    file = tenant.upload()
    scene.inspected(tenant, file)
    check = f"/data/{file}/check"
    page = browser.get(f"/data/{file}")
    assert check in page.text
    for words in ("Checking every line", "is being checked already"):
        page = browser.post(check, data={"csrf": token(page)}, headers=SAME_SITE)
        assert words in page.text
    assert check not in browser.get(f"/data/{file}").text
    tenant.check(file)
    page = browser.get(f"/data/{file}")
    assert check in page.text
    assert "of 12 sequences" not in page.text, "counted by the old verdict"
