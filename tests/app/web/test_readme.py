"""A model's README on its page: a stranger wrote it."""

import time
from html.parser import HTMLParser

import pytest

from app.web.readme import MAX_BYTES, render
from tests.support.hostile import PAYLOADS

CARD = """---
license: apache-2.0
tags: [fp8]
---
# Title

Some *text* and `code`.

| a | b |
|---|---|
| 1 | 2 |

#### Deeper
"""


def test_a_card_becomes_html_with_its_licence_and_headings_of_the_page() -> None:
    readme = render(CARD)
    assert readme.license == "apache-2.0"
    assert "license" not in readme.html
    for part in ("<h3>Title</h3>", "<em>text</em>", "<td>2</td>", "<h4>Deeper</h4>"):
        assert part in readme.html
    assert render("# No front matter").license is None


@pytest.mark.parametrize(
    "text",
    [
        *PAYLOADS[::6],
        "<script>alert(1)</script>",
        "[a](javascript:alert(1))",
        "[a](data:text/html;base64,PHN2Zz4=)",
        '[a](http://b "\\" onmouseover=alert(1)")',
        "![a](http://evil.example/pixel.png)",
        "<a href=javascript:alert(1)>a</a>",
        "`<img src=x onerror=alert(1)>`",
        "|a|b|c|\n|--:|:-:|:--|\n|1|2|3|",
    ],
)
def test_no_markup_of_the_text_gets_through(text: str) -> None:
    tags: list[tuple[str, list[tuple[str, str | None]]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, attributes))  # type: ignore[method-assign]
    parser.feed(render(text).html)
    assert not {tag for tag, _ in tags} & {"script", "img", "svg", "iframe", "form", "style"}
    attributes = [attribute for _, found in tags for attribute in found]
    assert {name for name, _ in attributes} <= {"href", "title", "class", "start"}
    links = [value or "" for name, value in attributes if name == "href"]
    assert not [link for link in links if link.lower().startswith(("javascript:", "data:"))]


def test_a_column_of_numbers_is_aligned_by_a_class() -> None:
    html = render("|a|b|\n|---|--:|\n|x|1|").html
    assert '<th>a</th>\n<th class="number">b</th>' in html
    assert '<td>x</td>\n<td class="number">1</td>' in html


def test_an_image_is_its_text() -> None:
    assert render("![a <curve>](https://other.example/c.svg)").html == "<p>a &lt;curve&gt;</p>\n"


@pytest.mark.parametrize("piece", ["[", "![", "*a_", "`", "> ", "- ", "<", "a|", "[a](", "#", "\\"])
def test_a_hostile_text_is_rendered_in_bounded_time(piece: str) -> None:
    text = (piece * MAX_BYTES)[:MAX_BYTES]
    start = time.process_time()
    render(text)
    assert time.process_time() - start < 5
