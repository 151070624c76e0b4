"""Packages that lie side by side build on each other in one direction only.

Imports inside functions and those for types alone count, too: a reader follows them all the same.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
Graph = dict[str, set[str]]


def read_sources() -> dict[str, ast.Module]:
    """Return the parsed files, by the names of their modules."""
    sources = {}
    for folder in ("app", "worker", "falqon_core"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            sources[name] = ast.parse(path.read_text())
    return sources


def imports_of(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules else node.module for name in names)


def siblings_of(module: str, imported: str) -> tuple[str, str] | None:
    """Return the two packages that lie side by side and hold these modules."""
    ours = module.split(".")
    theirs = imported.split(".")
    for depth, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        if our != their:
            return ".".join(ours[: depth + 1]), ".".join(theirs[: depth + 1])
    return None


def test_no_packages_import_each_other() -> None:
    sources = read_sources()
    assert len(sources) > 200
    graph: Graph = defaultdict(set)
    for module, tree in sources.items():
        for imported in imports_of(tree, set(sources)):
            if siblings := siblings_of(module, imported):
                graph[siblings[0]].add(siblings[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(error.args[1][::-1])) from None


def test_a_repository_serves_only_its_own_package() -> None:
    """Endpoints call actions, and other packages of the app the service beside the repository."""
    sources = read_sources()
    strangers = []
    for module, tree in sources.items():
        package, _, name = module.rpartition(".")
        if not module.startswith("app.") or module == "app.reconciler":
            continue
        for imported in imports_of(tree, set(sources)):
            owner, _, kind = imported.rpartition(".")
            if kind == "repository" and (owner != package or name == "endpoints"):
                strangers.append(f"{module} imports {imported}")
    assert strangers == []
