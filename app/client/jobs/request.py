"""The body of a new job, or of what a clone changes, from options."""

import json
from collections.abc import Iterable
from typing import Any

from app.client.api import Json
from app.client.errors import Misused


def job_body(
    *,
    suffix: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    budget: str | None = None,
    settings: Iterable[str] = (),
    metadata: Iterable[str] = (),
    **names: str | None,
) -> Json:
    """`names`: official fields that are text. What is not given is not sent, so the service's own defaults hold."""
    recipe = {"num_epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    falqon: Json = {name: value for name, value in recipe.items() if value is not None}
    if budget is not None:
        falqon["budget"] = {"max_cost_usd": budget}
    for setting in settings:
        name, value = pair(setting, "--set")
        _put(falqon, name, _value(value))
    official = {**names, "suffix": suffix, "seed": seed, "metadata": dict(pair(each, "--metadata") for each in metadata) or None}
    return {name: value for name, value in (official | {"falqon": falqon or None}).items() if value is not None}


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
