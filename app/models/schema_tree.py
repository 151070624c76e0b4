"""Schemas within a JSON schema, each with its path in the user's field."""

from collections.abc import Iterator
from typing import Any, NoReturn

MAX_NAME_CHARACTERS = 256  # per property or definition
MAX_REFERENCE_CHARACTERS = 512
MAX_SHOWN_PATH = 300
# Keywords by the form of their values.
NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SCHEMAS = (
    *("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not"),
    *("if", "then", "else", "unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)

Schema = dict[str, Any]


class SchemaRefused(ValueError):
    """The schema is not supported. `path` leads to the faulty part in the user's field."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path = path[:MAX_SHOWN_PATH]
        self.reason = reason


def walk(schema: Any, path: str) -> Iterator[tuple[Schema, str, int, int]]:
    """Yield each schema with its path, its depth and the characters of the names that lead to it;
    references are not followed.
    """
    pending: list[tuple[Any, str, int, int]] = [(schema, path, 1, 0)]
    while pending:
        node, place, depth, num_characters = pending.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            refuse(place, "a schema is an object")
        below = list(children(node, place))
        yield node, place, depth, num_characters
        pending += [
            (child, child_path, depth + 1, num_characters + num_more)
            for child, child_path, num_more in below
        ]


def children(node: Schema, path: str) -> Iterator[tuple[Any, str, int]]:
    """Yield each direct child of a schema, with its path and the characters of its name."""
    for keyword in NAMED_SCHEMAS:
        named = node.get(keyword, {})
        if not isinstance(named, dict):
            refuse(f"{path}.{keyword}", "it is an object of names and schemas")
        for name, schema in named.items():
            if len(name) > MAX_NAME_CHARACTERS:
                refuse(
                    f"{path}.{keyword}.{name}",
                    f"a name has more than {MAX_NAME_CHARACTERS} characters; write a shorter one",
                )
            yield schema, f"{path}.{keyword}.{name}", len(name)
    for keyword in (*SCHEMA_LISTS, *SCHEMAS):
        if keyword not in node:
            continue
        value = node[keyword]
        if isinstance(value, list) and (keyword in SCHEMA_LISTS or keyword == "items"):
            if not value:
                refuse(f"{path}.{keyword}", "the list is empty; leave it out")
            for i, schema in enumerate(value):
                yield schema, f"{path}.{keyword}.{i}", len(keyword)
        elif keyword in SCHEMA_LISTS:
            refuse(f"{path}.{keyword}", "it is a list of schemas")
        else:
            yield value, f"{path}.{keyword}", len(keyword)


def without_true(schema: Any) -> Any:
    """Return the schema with `{}`, which every engine reads, in place of each `true`."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        return schema
    plain = dict(schema)
    for keyword in plain.keys() & {*NAMED_SCHEMAS, *SCHEMA_LISTS, *SCHEMAS}:
        value = plain[keyword]
        if isinstance(value, list):
            plain[keyword] = [without_true(each) for each in value]
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            plain[keyword] = {name: without_true(each) for name, each in value.items()}
        elif keyword in SCHEMAS:
            plain[keyword] = without_true(value)
    return plain


def target_of(root: Schema, node: Schema, path: str) -> Schema:
    """Return the schema that the node's `$ref` leads to."""
    reference = node["$ref"]
    place = f"{path}.$ref"
    if not isinstance(reference, str) or not reference.startswith("#/"):
        refuse(
            place,
            "a reference leads to a part of the same schema, as #/$defs/name does; "
            "write the schema there",
        )
    if len(reference) > MAX_REFERENCE_CHARACTERS or "~" in reference or "%" in reference:
        refuse(place, "the reference is too long, or holds ~ or %; name it shorter and plainly")
    target: Any = root
    for name in reference[2:].split("/"):
        if isinstance(target, dict):
            target = target.get(name)
        elif isinstance(target, list) and name.isdecimal() and len(name) <= 4:
            target = target[int(name)] if int(name) < len(target) else None
        else:
            target = None
    if not isinstance(target, dict):
        refuse(place, f"'{reference[:80]}' leads to no schema; write its definition")
    return target


def refuse(path: str, reason: str) -> NoReturn:
    raise SchemaRefused(path, reason)
