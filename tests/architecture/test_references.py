"""Every file that a comment, a docstring or a page names must be in the repository, and every
heading that a page links to must be on its page.
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"(?<![\w/.:-])((?:\.{1,2}/)*[\w/-]*\w\.(?:md|py|js|css|html|toml|yml))\b(?!\()")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
LINK_TO_HEADING = re.compile(r"\]\(\s*(?!https?:)([^)#\s]*)#([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.M | re.S)
# Files that a training or an upload makes, or that belong to somebody else.
NOT_OURS = {
    "README.md",
    "LICENSE.md",
    "EVALUATION.md",
    "table.md",
    "sitecustomize.py",
    "your_code.py",
}


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.check_output(command, cwd=ROOT, text=True).split("\n")[:-1]


def prose_of(source: str) -> Iterator[str]:
    """Comments and docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def tails_of(names: Iterable[str]) -> set[str]:
    """Return every name of the files, by itself and with the folders that lead to it."""
    return {
        "/".join(parts[start:])
        for parts in (name.split("/") for name in names)
        for start in range(len(parts))
    }


def is_there(name: str, beside: Path, tails: set[str]) -> bool:
    """Return whether a tracked file ends with the name, or the name leads to a file from there."""
    tail = name.rsplit("../", 1)[-1].removeprefix("./")
    return tail in tails or (beside / name).resolve().exists()


def test_files_that_comments_and_documents_name_exist() -> None:
    paths = tracked()
    tails = tails_of(paths)
    missing = []
    for path in paths:
        if not path.endswith((".py", ".md")) or path.startswith("benchmarks/results/"):
            continue
        text = (ROOT / path).read_text()
        if path.endswith(".py"):
            mentions = set(NAME.findall("\n".join(prose_of(text))))
        else:
            mentions = set(LINK.findall(text)) | set(NAME.findall(CODE_BLOCK.sub("", text)))
        missing += [
            f"{path}: {name}"
            for name in sorted(mentions - NOT_OURS)
            if not is_there(name, (ROOT / path).parent, tails)
        ]
    assert missing == []


def headings_of(page: Path) -> set[str]:
    """Return the fragment of each heading, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_headings_that_documents_link_to_exist() -> None:
    pages = [ROOT / path for path in tracked() if path.endswith(".md")]
    missing = []
    for page in pages:
        for name, heading in LINK_TO_HEADING.findall(CODE_BLOCK.sub("", page.read_text())):
            linked = (page.parent / name).resolve() if name else page
            if heading not in headings_of(linked):
                missing.append(f"{page.relative_to(ROOT)}: {name}#{heading}")
    assert missing == []
