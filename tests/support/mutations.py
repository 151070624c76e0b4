"""One change in a JSON body: every text in it, every type, every object, one at a time."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

NUL, HALF_A_CHARACTER = "a\0b", "a\ud800"

Path = tuple[str | int, ...]


def with_every_text_replaced(body: Any) -> Iterator[tuple[Any, str]]:
    yield from replaced(
        body, lambda value: [NUL, HALF_A_CHARACTER] if isinstance(value, str) else []
    )
    for text in (NUL, HALF_A_CHARACTER):
        for path, inner in objects_in(body):
            changed = deepcopy(body)
            at(changed, path)[text] = next(iter(inner.values()))
            yield changed, ".".join(map(str, path))


def with_every_type_changed(body: Any) -> Iterator[tuple[Any, str]]:
    def others(value: object) -> list[object]:
        if isinstance(value, bool):
            return ["true", 1]
        if isinstance(value, int | float):
            return [str(value), [value]]
        if isinstance(value, str):
            return [1, True, [value], {value: value}]
        return ["x", 1, []] if isinstance(value, dict) else ["x", 1, {}]

    return replaced(body, others)


def with_a_field_more(body: Any, *, free: str) -> Iterator[Any]:
    """But for the object `free`, which takes any."""
    for path, _ in objects_in(body):
        if free not in path:
            changed = deepcopy(body)
            at(changed, path)["colour"] = "red"
            yield changed


def replaced(
    body: Any, others: Callable[[Any], list[Any]], path: Path = ()
) -> Iterator[tuple[Any, str]]:
    """The body once for each value in it and each of its `others`, with the place of the change."""
    value = at(body, path)
    for other in others(value) if path else []:
        changed = deepcopy(body)
        at(changed, path[:-1])[path[-1]] = other
        yield changed, ".".join(map(str, path))
    for key in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield from replaced(body, others, (*path, key))


def objects_in(body: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    value = at(body, path)
    if isinstance(value, dict):
        yield path, value
    for key in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield from objects_in(body, (*path, key))


def at(body: Any, path: Path) -> Any:
    for key in path:
        body = body[key]
    return body
