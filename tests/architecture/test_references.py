"""Every file that a comment, a docstring or a page names must be in the repository."""

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
            mentions = set(LINK.findall(text)) | set(
                NAME.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
            )
        missing += [
            f"{path}: {name}"
            for name in sorted(mentions - NOT_OURS)
            if not is_there(name, (ROOT / path).parent, tails)
        ]
    assert missing == []
