"""The body of a new job, or of what a clone changes, from options."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from app.client.api import Json
from app.client.command import option
from app.client.errors import Misused

MaxCost = Annotated[
    str | None,
    option("--max-cost-usd", metavar="USD", help="Pause the job at this cost."),
]
MaxSeconds = Annotated[int | None, option(help="Pause the job after this run time.")]


@dataclass(frozen=True)
class JobOptions:
    """The options that say how to train."""

    suffix: Annotated[str | None, option(help="Part of the new model's name.")] = None
    seed: Annotated[int | None, option(help="Same seed, same data, same result.")] = None
    epochs: Annotated[int | None, option(help="Passes over the data.")] = None
    batch_size: Annotated[int | None, option(help="Records per step.")] = None
    learning_rate: Annotated[float | None, option(help="Absolute, not a multiplier.")] = None
    settings: Annotated[
        list[str],
        option(
            "--set", metavar="KEY=VALUE", help="Any field of `falqon`, as rank=32; may be repeated."
        ),
    ] = field(default_factory=list)
    priority: Annotated[
        int | None, option(help="-10 to 10; higher runs first in your project.")
    ] = None
    max_cost_usd: MaxCost = None
    max_seconds: MaxSeconds = None
    metadata: Annotated[
        list[str], option(metavar="KEY=VALUE", help="Kept with the job; may be repeated.")
    ] = field(default_factory=list)


def job_body(model: str | None, options: JobOptions) -> Json:
    """Return the given fields alone, so that the service's own defaults hold for the others."""
    recipe = {
        "num_epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
    }
    falqon: Json = {name: value for name, value in recipe.items() if value is not None}
    if caps := budget(options.max_cost_usd, options.max_seconds):
        falqon["budget"] = caps
    parse_settings(options.settings, into=falqon)
    body = {
        "model": model,
        "suffix": options.suffix,
        "seed": options.seed,
        "priority": options.priority,
        "metadata": parse_metadata(options.metadata) or None,
        "falqon": falqon or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def parse_settings(settings: list[str], option: str = "--set", into: Json | None = None) -> Json:
    """Return the settings of `key=value` pairs, beside the earlier ones."""
    fields: Json = {} if into is None else into
    for setting in settings:
        name, value = pair(setting, option)
        _put(fields, name, _value(value), option)
    return fields


def parse_metadata(pairs: list[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for text in pairs:
        name, value = pair(text, "--metadata")
        if name in metadata:
            raise Misused(f"--metadata {name}: it is given twice.")
        metadata[name] = value
    return metadata


def budget(max_cost_usd: str | None, max_seconds: int | None) -> Json:
    """The caps that are given."""
    caps = {"max_cost_usd": max_cost_usd, "max_seconds": max_seconds}
    return {name: value for name, value in caps.items() if value is not None}


def pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Misused(f"{option} '{text}' is not key=value.")
    return name, value


def _put(target: Json, path: str, value: Any, option: str) -> None:
    """`a.b=c` is {"a": {"b": c}}."""
    *outer, last = path.split(".")
    for name in outer:
        inner = target.setdefault(name, {})
        if not isinstance(inner, dict):
            raise Misused(f"{option} {path}: {name} has a value of its own already.")
        target = inner
    if last in target:
        raise Misused(f"{option} {path}: it is given twice.")
    target[last] = value


def _value(text: str) -> Any:
    """Parse as JSON what is JSON (3, 0.5, true, null, ["q_proj"]); keep anything else as text."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text
