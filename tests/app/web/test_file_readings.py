import json
import re
from html import unescape

import httpx

from tests.support.api import Tenant


def test_a_page_says_how_lines_were_read(browser: httpx.Client, tenant: Tenant) -> None:
    answer = {"role": "assistant", "content": "Five."}
    chat = [{"role": "developer", "content": "Be brief."}, answer]
    line = {"messages": chat, "<b>tag": 1}
    rows = [*[json.dumps(line)] * 2, '{"text": "plain"}']
    file = tenant.upload("\n".join(rows).encode())
    page = browser.get(f"/data/{file}").text
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))
    assert "messages 2 1 text 1 3" in text
    assert "In 2 records role 'developer' is read as 'system'." in text
    assert "&lt;b&gt;tag</code> in 2 records." in page
    assert "Line formats" not in browser.get(f"/data/{tenant.upload()}").text


def test_a_record_that_was_converted_is_shown_as_it_is_written(
    browser: httpx.Client, tenant: Tenant
) -> None:
    record = {"instruction": "Größe <b>?", "output": "二"}
    file = tenant.upload(f"{json.dumps(record)}\n".encode())
    page = unescape(browser.get(f"/data/{file}").text)
    assert f"<code>{json.dumps(record, ensure_ascii=False)}</code>" in page
