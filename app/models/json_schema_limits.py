"""Bounds of the JSON schemas that requests carry: engines build a grammar of one and graders check
answers with it, both in the processes of everyone.

Everything is counted before a grammar is built; the engine's own limits of memory and time are the
second wall (`worker.inference`). Ordinary keywords that an engine does not know are left to it; a
keyword that would have it compute without end is refused with its place in the user's field.
"""

import json
import math
from collections.abc import Collection
from typing import Any

from app.models.schema_ambiguity import check_ways
from app.models.schema_patterns import PatternRefused, cost_of
from app.models.schema_tree import SCHEMA_LISTS, Schema, SchemaRefused, walk

MAX_PARTS = 5_000  # values of all schemas of a request, each object, list, text and number
MAX_DEPTH = 60  # schemas within schemas
MAX_PATH_CHARACTERS = 2_000  # names of properties within properties, which name the rules
MAX_ENUM_VALUES = 1_000  # total of all schemas
MAX_TEXT_CHARACTERS = 120_000  # total of all values in enum and const
MAX_ALTERNATIVES = 100  # per anyOf, oneOf or allOf
MAX_OPTIONAL_PROPERTIES = 200  # per object
MAX_OPTIONAL_PROPERTIES_IN_ALL = 1_000
MAX_BOUNDED_INTEGERS = 200
MAX_INTEGER = 2**53  # beyond it JSON's readers disagree
MAX_COUNT = 1_000  # upper bound of minItems and minLength
MAX_UPPER_COUNT = 10**6  # upper bound of maxItems and maxLength
MAX_COUNTS_IN_ALL = 100_000
COUNTED_UP_TO = 2_000  # the most that an engine counts; a higher bound is as good as none
MAX_PATTERN_SIZE_IN_ALL = 10_000
MAX_PATTERN_CHOICES_IN_ALL = 200

LOWER_AND_UPPER = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minProperties", "maxProperties"),
    ("minContains", "maxContains"),
)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class SchemaLimits:
    """Limits on all schemas of one request together."""

    def __init__(self, max_parts: int = MAX_PARTS, refused: Collection[str] = ()) -> None:
        self._max_parts = max_parts
        self._refused = frozenset(refused)
        self._num_parts = 0
        self._num_enum_values = 0
        self._num_characters = 0
        self._num_optional = 0
        self._num_integers = 0
        self._num_counts = 0
        self._pattern_size = 0
        self._pattern_choices = 0

    def check(self, schema: Any, path: str) -> None:
        """Raise `SchemaRefused` for a schema that is malformed or exceeds a limit."""
        self._count_parts(schema, path)
        for node, place, depth, num_characters in walk(schema, path):
            if depth > MAX_DEPTH:
                raise SchemaRefused(place, f"it is more than {MAX_DEPTH} levels deep; flatten it")
            if num_characters > MAX_PATH_CHARACTERS:
                raise SchemaRefused(
                    place,
                    f"the names down to here have more than {MAX_PATH_CHARACTERS} characters; "
                    "write shorter ones",
                )
            self._check_node(node, place)
        check_ways(schema, path)

    def _count_parts(self, schema: Any, path: str) -> None:
        pending = [schema]
        while pending:
            value = pending.pop()
            self._num_parts = self._within(
                self._num_parts + 1, self._max_parts, path, "parts; write a smaller one"
            )
            if isinstance(value, dict):
                pending += value.values()
            elif isinstance(value, list):
                pending += value

    def _check_node(self, node: Schema, path: str) -> None:
        if refused := self._refused & node.keys():
            keyword = min(refused)
            raise SchemaRefused(
                f"{path}.{keyword}", f"'{keyword}' is not supported; write it without"
            )
        self._check_type(node, path)
        self._check_names(node, path)
        self._check_values(node, path)
        self._check_counts(node, path)
        self._check_numbers(node, path)
        if "pattern" in node:
            self._check_pattern(node["pattern"], f"{path}.pattern")
        for keyword in SCHEMA_LISTS:
            if len(node.get(keyword, ())) > MAX_ALTERNATIVES and keyword != "prefixItems":
                raise SchemaRefused(
                    f"{path}.{keyword}", f"it has more than {MAX_ALTERNATIVES} alternatives"
                )

    def _check_type(self, node: Schema, path: str) -> None:
        types = node.get("type", "object")
        types = types if isinstance(types, list) else [types]
        if not types or not all(isinstance(name, str) for name in types):
            raise SchemaRefused(f"{path}.type", "this is no JSON Schema: a type is a text")
        if len(set(types)) < len(types):
            raise SchemaRefused(f"{path}.type", "a type stands twice in the list; write it once")

    def _check_names(self, node: Schema, path: str) -> None:
        required = node.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaRefused(f"{path}.required", "it is a list of names")
        properties = node.get("properties", {})
        num_optional = len(properties.keys() - set(required))
        if num_optional > MAX_OPTIONAL_PROPERTIES:
            raise SchemaRefused(
                f"{path}.properties",
                f"more than {MAX_OPTIONAL_PROPERTIES} of its properties are optional; "
                "name them in required, or split the object",
            )
        self._num_optional = self._within(
            self._num_optional + num_optional,
            MAX_OPTIONAL_PROPERTIES_IN_ALL,
            f"{path}.properties",
            "optional properties in all; name them in required",
        )

    def _check_values(self, node: Schema, path: str) -> None:
        values = node.get("enum", [])
        if not isinstance(values, list) or ("enum" in node and not values):
            raise SchemaRefused(f"{path}.enum", "an enum is a list of at least one value")
        self._num_enum_values = self._within(
            self._num_enum_values + len(values), MAX_ENUM_VALUES, f"{path}.enum", "values in enums"
        )
        if values or "const" in node:
            texts = [json.dumps(value) for value in (*values, node.get("const"))]
            self._num_characters = self._within(
                self._num_characters + sum(map(len, texts)),
                MAX_TEXT_CHARACTERS,
                path,
                "characters in enum and const",
            )

    def _check_counts(self, node: Schema, path: str) -> None:
        for lower, upper in LOWER_AND_UPPER:
            for keyword, most in ((lower, MAX_COUNT), (upper, MAX_UPPER_COUNT)):
                count = node.get(keyword, 0)
                if type(count) is not int or not 0 <= count <= most:
                    raise SchemaRefused(
                        f"{path}.{keyword}", f"it is a whole number from 0 to {most:,}"
                    )
            if upper in node and node.get(lower, 0) > node[upper]:
                raise SchemaRefused(f"{path}.{upper}", f"it is below {lower}; no answer fits both")
            count = max(node.get(lower, 0), node.get(upper, 0))
            self._num_counts = self._within(
                self._num_counts + min(count, COUNTED_UP_TO),
                MAX_COUNTS_IN_ALL,
                f"{path}.{upper}",
                "items and characters that are counted; leave bounds out",
            )

    def _check_numbers(self, node: Schema, path: str) -> None:
        present = [keyword for keyword in BOUNDS if keyword in node]
        for keyword in present:
            value = node[keyword]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or abs(value) > MAX_INTEGER:
                raise SchemaRefused(
                    f"{path}.{keyword}", f"it is a number between -{MAX_INTEGER} and {MAX_INTEGER}"
                )
        lower = max(node.get("minimum", -math.inf), node.get("exclusiveMinimum", -math.inf))
        upper = min(node.get("maximum", math.inf), node.get("exclusiveMaximum", math.inf))
        if lower > upper:
            raise SchemaRefused(
                f"{path}.{present[-1]}", "the maximum is below the minimum; no number fits both"
            )
        self._num_integers = self._within(
            self._num_integers + bool(present), MAX_BOUNDED_INTEGERS, path, "numbers with bounds"
        )

    def _check_pattern(self, pattern: Any, path: str) -> None:
        if not isinstance(pattern, str):
            raise SchemaRefused(path, "a pattern is a text")
        try:
            cost = cost_of(pattern)
        except PatternRefused as error:
            raise SchemaRefused(path, str(error)) from None
        size = self._pattern_size + cost.size
        choices = self._pattern_choices + cost.choices
        self._pattern_size = self._within(
            size, MAX_PATTERN_SIZE_IN_ALL, path, "characters in patterns, repetitions counted"
        )
        self._pattern_choices = self._within(
            choices, MAX_PATTERN_CHOICES_IN_ALL, path, "repetitions without a fixed count"
        )

    def _within(self, count: int, most: int, path: str, things: str) -> int:
        """Return the count, unless it is above its limit."""
        if count > most:
            raise SchemaRefused(path, f"it brings the schemas to more than {most} {things}")
        return count
