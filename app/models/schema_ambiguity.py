"""Ambiguity of JSON schemas: the ways in which one answer may follow a schema.

An engine follows all of them for each token. Alternatives that begin alike are added up, and if
such a choice is made again at each level of a recursive schema their number doubles with every
bracket of the answer, so a short schema would stop the engine for everyone.
"""

import json
from itertools import combinations
from typing import Any

from app.models.schema_patterns import cost_of
from app.models.schema_tree import Schema, children, refuse, target_of

MAX_WAYS = 100
MAX_FOLLOWED_DEPTH = 100  # levels, references followed
MAX_FOLLOWED_ALTERNATIVES = 200
MAX_COMPARISONS = 50_000  # alternatives that contain their own choice, a fraction of a second
KINDS = {
    "object": "object",
    "array": "array",
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}
HINTS = {
    "object": ("properties", "additionalProperties", "allOf", "required"),
    "array": ("items", "prefixItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
}
# Property with the texts of its values if they are enumerated; no name: the object's end.
Start = tuple[str | None, frozenset[str] | None]


def check_ways(schema: Any, path: str) -> None:
    """Raise `SchemaRefused` if an answer may follow the schema in too many ways."""
    if isinstance(schema, dict):
        graph = _Graph(schema)
        graph.visit(schema, path, 1)
        graph.check_unions()


class _Graph:
    """Graph of the schemas and their references, with its cycles (Tarjan's components)."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._order: dict[int, int] = {}
        self._lowest: dict[int, int] = {}
        self._component: dict[int, int] = {}
        self._open: list[int] = []
        self._targets: dict[int, Schema] = {}
        self._paths: dict[int, str] = {}
        self._schemas: dict[int, Schema] = {}
        self._alternatives: dict[int, list[Schema]] = {}
        self._ways: dict[int, int] = {}
        self._num_comparisons = 0

    def visit(self, node: Schema, path: str, depth: int) -> None:
        if depth > MAX_FOLLOWED_DEPTH:
            refuse(
                path,
                f"with its references it is more than {MAX_FOLLOWED_DEPTH} levels deep; flatten it",
            )
        id_ = id(node)
        self._order[id_] = self._lowest[id_] = len(self._order)
        self._paths[id_] = path
        self._schemas[id_] = node
        self._open.append(id_)
        for child, child_path in self._below(node, path):
            if id(child) not in self._order:
                self.visit(child, child_path, depth + 1)
                self._lowest[id_] = min(self._lowest[id_], self._lowest[id(child)])
            elif id(child) not in self._component:
                self._lowest[id_] = min(self._lowest[id_], self._order[id(child)])
        if self._lowest[id_] == self._order[id_]:
            while id_ not in self._component:
                self._component[self._open.pop()] = id_

    def check_unions(self) -> None:
        for id_, node in self._schemas.items():
            path = self._paths[id_]
            alternatives = self._alternatives_of(node, path)
            if len(alternatives) > 1 and "$ref" not in node:
                self._check_recursion(node, alternatives, path)
            if "allOf" in node:
                self._check_merged(node, path)
        for id_, node in self._schemas.items():
            if self._ways_of(node) > MAX_WAYS:
                refuse(
                    self._paths[id_],
                    f"an answer may follow it in more than {MAX_WAYS} ways at the same time; have "
                    "alternatives begin with a required property that tells them apart, with "
                    "const, and fewer patterns",
                )

    def _below(self, node: Schema, path: str) -> list[tuple[Schema, str]]:
        below = [
            (child, child_path)
            for child, child_path, _ in children(node, path)
            if isinstance(child, dict)
        ]
        if "$ref" in node:
            target = self._targets[id(node)] = target_of(self._root, node, path)
            below.append((target, path))
        return below

    def _alternatives_of(self, node: Schema, path: str) -> list[Schema]:
        """Return the schemas, themselves no references or unions, of which one applies."""
        id_ = id(node)
        if id_ in self._alternatives:
            if not self._alternatives[id_]:
                refuse(
                    path, "it refers to itself with nothing between; write the part that it means"
                )
            return self._alternatives[id_]
        self._alternatives[id_] = []  # placeholder until they are known
        branches = [self._targets[id_]] if id_ in self._targets else []
        if not branches:
            branches = [
                branch
                for keyword in ("anyOf", "oneOf")
                for branch in node.get(keyword, ())
                if isinstance(branch, dict)
            ]
        leaves = [leaf for branch in branches for leaf in self._alternatives_of(branch, path)]
        for component in node.get("allOf", ()):
            if isinstance(component, dict):
                self._alternatives_of(component, path)
        if len(leaves) > MAX_FOLLOWED_ALTERNATIVES:
            refuse(
                path,
                f"with its references it has more than {MAX_FOLLOWED_ALTERNATIVES} alternatives",
            )
        self._alternatives[id_] = leaves or [node]
        return self._alternatives[id_]

    def _check_recursion(self, union: Schema, alternatives: list[Schema], path: str) -> None:
        """Refuse a choice that is made again within itself before it is decided."""
        for kind in ("array", "object"):
            alike = [node for node in alternatives if kind in _kinds(node)]
            recursive = {id(node) for node in alike if self._is_within(union, node)}
            if not recursive:
                continue
            for first, second in combinations(alike, 2):
                self._num_comparisons += 1
                if self._num_comparisons > MAX_COMPARISONS:
                    refuse(path, "too many alternatives hold their choice again; write fewer")
                if not recursive & {id(first), id(second)}:
                    continue
                if kind == "array" or not self._differ(union, first, second):
                    refuse(
                        path,
                        f"two {kind}s begin alike, and one of them holds this choice again; have "
                        "each begin with a required property of another name or const",
                    )

    def _check_merged(self, node: Schema, path: str) -> None:
        """Refuse a property that is merged from two places: an answer may follow either."""
        names: set[str] = set()
        for component in node["allOf"]:
            merged = self._alternatives_of(component, path) if isinstance(component, dict) else ()
            for properties in (leaf.get("properties", {}) for leaf in merged):
                if twice := names & properties.keys():
                    refuse(f"{path}.allOf", f"'{min(twice)[:80]}' is defined twice; define it once")
                names |= properties.keys()

    def _is_within(self, union: Schema, node: Schema) -> bool:
        """Return True if each leads to the other."""
        return self._component[id(union)] == self._component[id(node)]

    def _differ(self, union: Schema, first: Schema, second: Schema) -> bool:
        """Return True if two objects differ before anything within them is recursive."""
        starts = zip(self._starts(union, first), self._starts(union, second), strict=False)
        return any(_is_different(start, other) for start, other in starts)

    def _starts(self, union: Schema, node: Schema) -> list[Start]:
        """Return the properties that an object has to begin with, up to one that is recursive."""
        starts: list[Start] = []
        required = node.get("required", [])
        for name, value in node.get("properties", {}).items():
            if name not in required:
                return starts
            if not isinstance(value, dict):
                return [*starts, (name, None)]
            starts.append((name, _values(value)))
            if self._is_within(union, value):
                return starts
        if node.get("additionalProperties", False) is False and "allOf" not in node:
            starts.append((None, None))
        return starts

    def _ways_of(self, node: Schema) -> int:
        id_ = id(node)
        if id_ not in self._ways:
            self._ways[id_] = 1  # value where it is reached from itself
            alternatives = self._alternatives_of(node, self._paths[id_])
            if alternatives == [node]:
                # An alternative that contains the choice again is unambiguous by then, or was
                # refused.
                below = [child for child, _ in self._below(node, "")]
                others = [child for child in below if not self._is_within(node, child)]
                within = max(map(self._ways_of, others), default=1)
                pattern = node.get("pattern")
                choices = cost_of(pattern).choices if isinstance(pattern, str) else 0
                self._ways[id_] = max(within, 1 + choices)
            else:
                self._ways[id_] = self._ways_of_union(alternatives)
        return self._ways[id_]

    def _ways_of_union(self, alternatives: list[Schema]) -> int:
        ways = dict.fromkeys(KINDS.values(), 0)
        by_name: dict[str, dict[str, int]] = {}  # each object's first property and its value
        for node in alternatives:
            num_ways = self._ways_of(node)
            kinds = _kinds(node)
            if kinds == {"object"} and (start := _first_required(node)):
                values = by_name.setdefault(start[0], {})
                values[start[1]] = values.get(start[1], 0) + num_ways
                continue
            for kind in kinds:
                ways[kind] += num_ways
        ways["object"] += max(map(_ways_by_value, by_name.values()), default=0)
        return max(ways.values())


def _ways_by_value(values: dict[str, int]) -> int:
    """Return the ways of objects that begin with one property: those of any value and of one."""
    others = [ways for value, ways in values.items() if value]
    return values.get("", 0) + max(others, default=0)


def _is_different(first: Start, second: Start) -> bool:
    if first[0] != second[0]:
        return True
    return bool(first[1] and second[1] and first[1].isdisjoint(second[1]))


def _first_required(node: Schema) -> tuple[str, str] | None:
    """Return the property that an object has to begin with, and its value if there is only one."""
    name, value = next(iter(node.get("properties", {}).items()), ("", None))
    if not isinstance(value, dict) or name not in node.get("required", []):
        return None
    values = _values(value) or frozenset()
    return name, next(iter(values)) if len(values) == 1 else ""


def _values(node: Schema) -> frozenset[str] | None:
    if "const" in node:
        return frozenset([json.dumps(node["const"])])
    return frozenset(map(json.dumps, node["enum"])) if "enum" in node else None


def _kinds(node: Schema) -> set[str]:
    """Return the kinds of values that the schema takes."""
    if "type" in node:
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        return {KINDS[name] for name in types if name in KINDS}
    if "enum" in node or "const" in node:
        return {"string"}
    hinted = {kind for kind, keywords in HINTS.items() if node.keys() & set(keywords)}
    return hinted or set(KINDS.values())
