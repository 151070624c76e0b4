"""The trackers of a new job as fields of its form: those that the API's `integrations` have, each
with its options. What no fields can hold, such as a tag with a comma, is written as JSON instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from app.models.integrations import (
    Integration,
    MlflowOptions,
    TensorboardOptions,
    TrackioOptions,
    WandbOptions,
)

AS_JSON = "integrations"  # The field that replaces the others.
OPTIONS: dict[str, type[BaseModel]] = {
    "mlflow": MlflowOptions,
    "tensorboard": TensorboardOptions,
    "trackio": TrackioOptions,
    "wandb": WandbOptions,
}
TITLES = {"mlflow": "MLflow", "tensorboard": "TensorBoard", "trackio": "Trackio", "wandb": "W&B"}
HELP = {
    "name": "Name of the run. Leave empty for the job id.",
    "tags": "Comma-separated.",
}


@dataclass(frozen=True, slots=True)
class TrackerField:
    """`option`: of the tracker; empty for one that has none, and is only chosen."""

    name: str
    tracker: str
    option: str
    label: str
    help: str


def _fields(tracker: str) -> list[TrackerField]:
    title = TITLES[tracker]
    options = OPTIONS[tracker].model_fields
    if not options:
        return [TrackerField(tracker, tracker, "", title, "")]
    return [
        TrackerField(
            name=f"{tracker}_{option}",
            tracker=tracker,
            option=option,
            label=f"{title} {'run' if option == 'name' else option}",
            help=f"With it, the job reports to {title}."
            if field.is_required()
            else HELP.get(option, ""),
        )
        for option, field in options.items()
    ]


FIELDS = [field for tracker in OPTIONS for field in _fields(tracker)]
NAMES = [field.name for field in FIELDS]


def read_trackers(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the integrations that the fields which are filled in mean."""
    trackers: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        if text := texts.get(field.name, "").strip():
            tracker = trackers.setdefault(field.tracker, {"type": field.tracker})
            if field.option:
                options = tracker.setdefault(field.tracker, {})
                options[field.option] = _tags(text) if field.option == "tags" else text
    return list(trackers.values())


def write_trackers(integrations: Sequence[Integration]) -> dict[str, str]:
    """Return the texts that are read as the same integrations, of whatever order."""
    trackers = sorted(
        (integration.model_dump(mode="json", exclude_none=True) for integration in integrations),
        key=lambda tracker: list(OPTIONS).index(tracker["type"]),
    )
    texts: dict[str, str] = {}
    for tracker in trackers:
        options = tracker.get(tracker["type"])
        if options is None:
            texts[tracker["type"]] = "true"
            continue
        for option, value in options.items():
            text = ", ".join(value) if isinstance(value, list) else value
            texts[f"{tracker['type']}_{option}"] = text
    if read_trackers(texts) == trackers:
        return texts
    return {AS_JSON: json.dumps(trackers, indent=2, ensure_ascii=False)}


def _tags(text: str) -> list[str]:
    return [tag for part in text.split(",") if (tag := part.strip())]
