"""The body of a new job, or of what a clone changes, from options."""

import json
from collections.abc import Iterable
from typing import Any

from app.client.api import Json
from app.client.errors import Misused


def job_body(
    *,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    max_cost_usd: str | None,
    max_seconds: int | None,
    settings: Iterable[str],
    metadata: Iterable[str],
    **fields: str | int | None,
) -> Json:
    """`fields`: those beside `falqon`, as they are. What is not given is not sent, so the service's own defaults hold."""
    recipe = {"num_epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    falqon: Json = {name: value for name, value in recipe.items() if value is not None}
    if caps := budget(max_cost_usd, max_seconds):
        falqon["budget"] = caps
    for setting in settings:
        name, value = pair(setting, "--set")
        _put(falqon, name, _value(value))
    body = {**fields, "metadata": dict(pair(each, "--metadata") for each in metadata) or None, "falqon": falqon or None}
    return {name: value for name, value in body.items() if value is not None}


def budget(max_cost_usd: str | None, max_seconds: int | None) -> Json:
    """The caps that are given."""
    given = {"max_cost_usd": max_cost_usd, "max_seconds": max_seconds}
    return {name: value for name, value in given.items() if value is not None}


def pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Misused(f"{option} '{text}' is not key=value.")
    return name, value


def _put(target: Json, path: str, value: Any) -> None:
    """`a.b=c` is {"a": {"b": c}}."""
    *outer, last = path.split(".")
    for name in outer:
        inner = target.setdefault(name, {})
        if not isinstance(inner, dict):
            raise Misused(f"--set {path}: {name} has a value of its own already.")
        target = inner
    if last in target:
        raise Misused(f"--set {path}: it is given twice.")
    target[last] = value


def _value(text: str) -> Any:
    """As JSON where it is JSON: 3, 0.5, true, null, ["q_proj"]; else the text itself."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text
