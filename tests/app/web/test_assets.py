import re

import httpx

from app.web import assets
from app.web.rendering import WEB_FOLDER
from tests.app.web.test_page_weight import LOADED
from tests.browser import scene
from tests.support.api import Tenant

IMMUTABLE = "public, max-age=31536000, immutable"
GZIP = {"accept-encoding": "gzip"}


def test_a_browser_keeps_what_a_page_names_for_good(browser: httpx.Client) -> None:
    urls = LOADED.findall(browser.get("/").text)
    assert any(url.endswith("/base.css") for url in urls)
    for url in urls:
        answer = browser.get(url)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, IMMUTABLE), url


def test_a_page_of_another_version_gets_its_files_and_keeps_none(browser: httpx.Client) -> None:
    current = browser.get(assets.asset("/static/page.js"))
    for url in ("/static/page.js", f"/static/{'0' * assets.HASH_CHARACTERS}/page.js"):
        answer = browser.get(url)
        assert (answer.content, answer.headers["cache-control"]) == (current.content, "no-cache")
        again = browser.get(url, headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
    assert browser.get("/static/nothing.js").status_code == 404


def test_no_template_names_a_file_without_its_hash() -> None:
    bare = re.compile(r'(?:href|src)="/(?:static|assets|docs/assets)/')
    for path in (WEB_FOLDER / "templates").rglob("*.html"):
        assert not bare.search(path.read_text()), f'{path}: write {{{{ asset("/static/…") }}}}'


def test_pages_and_their_files_come_compressed(browser: httpx.Client) -> None:
    for url in ("/", "/data", "/openapi.json", assets.asset("/static/page.js")):
        answer = browser.get(url, headers=GZIP)
        assert answer.headers["content-encoding"] == "gzip", url
        assert "Accept-Encoding" in answer.headers["vary"]
        plain = browser.get(url, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert answer.num_bytes_downloaded < plain.num_bytes_downloaded / 2


def test_streams_downloads_and_the_api_are_left_alone(
    browser: httpx.Client, tenant: Tenant
) -> None:
    jobs = scene.scene(tenant)
    content = b'{"messages": []}\n' * 1000
    file = tenant.upload(content)
    with browser.stream("GET", f"/jobs/{jobs.succeeded}/live", headers=GZIP) as stream:
        assert "content-encoding" not in stream.headers
    for path in (f"/v1/files/{file}/content", f"/v1/fine_tuning/jobs/{jobs.running}/metrics"):
        answer = tenant.http.get(path, headers=GZIP)
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers, path
        assert int(answer.headers["content-length"]) == len(answer.content)
    part = browser.get(
        f"/jobs/{jobs.succeeded}/artifacts/model.safetensors", headers=GZIP | {"range": "bytes=1-2"}
    )
    assert (part.status_code, part.content, part.headers["content-length"]) == (206, b"yt", "2")
