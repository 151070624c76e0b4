"""README.md of a model as a part of a page. Its Markdown comes from a stranger: HTML in it stays
text, links of other kinds than the web's are none, and a picture is its text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup
from obstore.exceptions import BaseError as StorageError

from app.artifacts import service as artifacts
from app.artifacts.schemas import ArtifactObject
from app.auth.caller import Caller
from app.services import Services

FILE = "README.md"
MAX_BYTES = 2**16  # bytes that are read; a longer file is cut
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LICENSE = re.compile(r"^license:[ \t]*([\w.+-]{1,64})[ \t]*\r?$", re.MULTILINE)
MAX_KEPT_LICENSES = 1_000
FIRST_LEVEL, LAST_LEVEL = 3, 6  # levels of headings; those above are the page's own
PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")
_licenses: dict[str, str | None] = {}  # by the key of the README in the storage


def _render_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """Nothing is loaded from elsewhere: the text of an image stands in its place."""
    return escapeHtml(renderer.renderInlineAsText(tokens[index].children, options, env))


PARSER.add_render_rule("image", _render_image)


@dataclass(frozen=True, slots=True)
class Readme:
    html: Markup
    license: str | None


def read_readme(
    services: Services, caller: Caller, files: Sequence[ArtifactObject]
) -> Readme | None:
    """Read the README among the files of a model; None where there is none to read."""
    key = _key_of(services, caller, files)
    return render(text) if key and (text := _read(services, key)) is not None else None


def read_license(services: Services, caller: Caller, files: Sequence[ArtifactObject]) -> str | None:
    """Return the licence that the README of a model names, which is read once."""
    key = _key_of(services, caller, files)
    if key is None:
        return None
    if key not in _licenses:
        if len(_licenses) >= MAX_KEPT_LICENSES:
            _licenses.clear()
        _licenses[key] = find_license(_read(services, key) or "")
    return _licenses[key]


def _key_of(services: Services, caller: Caller, files: Sequence[ArtifactObject]) -> str | None:
    """Return the key of the README in the storage; an artifact never changes under its key."""
    file = next((file for file in files if file.name == FILE), None)
    if file is None:
        return None
    with services.database.read() as session:
        return artifacts.get(session, caller.project_id, file.model, file.name).storage_key


def _read(services: Services, key: str) -> str | None:
    content = b""
    try:
        for chunk in services.storage.chunks(key):
            content += chunk
            if len(content) >= MAX_BYTES:
                break
    except (FileNotFoundError, StorageError):
        return None
    return content[:MAX_BYTES].decode(errors="replace")


def render(text: str) -> Readme:
    """Render Markdown, without the front matter of the Hub but with the licence that it names."""
    front = FRONT_MATTER.match(text)
    tokens = PARSER.parse(text[front.end() :] if front else text)
    _shift_headings(tokens)
    _align_cells(tokens)
    html = PARSER.renderer.render(tokens, PARSER.options, {})
    return Readme(Markup(html), find_license(text))


def find_license(text: str) -> str | None:
    """Return the licence that the front matter names."""
    front = FRONT_MATTER.match(text)
    named = LICENSE.search(front[1]) if front else None
    return named[1] if named else None


def _shift_headings(tokens: Sequence[Token]) -> None:
    """Let the headings begin below those of the page, and none skip a level."""
    level = FIRST_LEVEL - 1
    for token in tokens:
        if token.type == "heading_open":
            level = min(int(token.tag[1:]) + FIRST_LEVEL - 1, level + 1, LAST_LEVEL)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"


def _align_cells(tokens: Sequence[Token]) -> None:
    """Let a class align numbers to the right: the policy of the pages allows no style."""
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            style = token.attrs.pop("style", "")
            if style == "text-align:right":
                token.attrs["class"] = "number"
