"""The form of a new job: which fields there are, and the request that their texts mean.

A field is named as the last part of the API's `param`, so that an error finds the field it is
about. The hyperparameters are those of `Recipe`, with its defaults, limits and descriptions.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pprint import pformat
from typing import Any, Literal

from pydantic import ValidationError

from app.base.errors import ApiError, refusal_of
from app.jobs.requests import read_recipe
from app.models import Job
from app.models.falqon_options import FalqonOptions
from app.models.job_request import JobRequest
from app.web import tracker_fields
from app.web.tracker_fields import read_trackers, write_trackers
from falqon_core.contract.block_weights import Weights
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.records.shapes import Shape, objective_for

Kind = Literal["integer", "number", "boolean", "list", "choice", "text", "json", "pairs"]
Values = Mapping[str, str]
Errors = dict[str, str]

OPENAI_NAMES = {
    "num_epochs": "n_epochs",
    "batch_size": "batch_size",
}  # Hyperparameters that OpenAI's request has a place for.
MAIN_NAMES = ("method", "weights", "num_epochs", "learning_rate", "batch_size", "rank")
QUESTIONS = {"weights": "What will serve it?"}  # Labels of the form alone.
# What serves each form of the weights.
SERVED_BY: dict[Weights, str] = {
    "fp8": "a card with FP8, or any (FP8)",
    "nvfp4": "a Blackwell card (NVFP4, 4 bits)",
    "mxfp4": "a card that takes MXFP4 (4 bits)",
    "q4_0": "a laptop or Ollama (Q4_0, 4 bits)",
    "q8_0": "a laptop or Ollama (Q8_0, 8 bits)",
}
LEFT_OUT = {  # Settings without a field of their name, each with the reason.
    "objective": "the training file decides it",
    "budget": "its two caps are fields",
    "early_stopping": "early_stopping_patience says the same",
    "sample_prompts": "not supported",
    "find_rate": "a button submits it",
    "switch": "the page of the model has it",
    "serve_as": "the page of the model has it",
}
LABELS = {
    "model": "Base model",
    "num_epochs": "Epochs",
    "method": "Training method",
    "rank": "Adapter rank",
    "alpha": "Adapter scaling (alpha)",
    "beta": "DPO beta",
    "target_modules": "Layers to train",
    "lr_schedule": "Learning rate schedule",
    "a_init": "Initialisation of A",
    "train_a": "Train adapter A",
    "num_update_rows": "Rows per update",
    "base_copy": "Base weight storage",
    "simulate_fp8": "Simulate FP8",
    "adapters_fp8": "FP8 adapters",
    "max_steps": "Maximum steps",
    "warmup_ratio": "Warm-up ratio",
    "max_grad_norm": "Gradient clipping",
    "max_seq_length": "Maximum sequence length",
    "text_overlap_tokens": "Text overlap in tokens",
    "microbatch_tokens": "Tokens per microbatch",
    "max_bad_record_fraction": "Tolerated bad records",
    "chat_template_kwargs": "Chat template variables",
    "eval_every": "Evaluate every … steps",
    "num_samples": "Sample prompts",
    "sample_tokens": "Tokens per sample answer",
    "checkpoint_every": "Checkpoint every … steps",
    "keep_checkpoints": "Checkpoints to keep",
}
OTHER_NAMES = {"learning_rate_multiplier": "learning_rate"}
BUDGET: dict[str, Kind] = {"max_cost_usd": "text", "max_seconds": "integer"}
JOB: dict[str, Kind] = {
    "seed": "integer",
    "priority": "integer",
    "metadata": "pairs",
    "integrations": "json",
}
SERVICE: dict[str, Kind] = {  # Options of the `falqon` object that belong to no recipe.
    "num_gpus": "integer",
    "gpu": "text",
    "evaluate": "boolean",
}
UNREADABLE = {  # Errors at fields whose text the API cannot parse.
    "metadata": "Write one key=value pair per line.",
    "integrations": "Write a JSON list, as in the API.",
}


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    label: str
    kind: Kind
    default: str
    help: str
    choices: tuple[str, ...] = ()

    @property
    def options(self) -> list[tuple[str, str]]:
        if self.name == "method":
            return [(name, spec.title) for name, spec in METHOD_SPECS.items()]
        if self.name == "weights":
            return list(SERVED_BY.items())
        return [(choice, choice) for choice in self.choices]

    @property
    def methods(self) -> str:
        """Return the methods that have this field, where not all do."""
        return " ".join(name for name, spec in METHOD_SPECS.items() if self.name in spec.options)


def label_of(name: str) -> str:
    """Return the label of a setting."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def _field(name: str, schema: dict[str, Any]) -> Field:
    kinds = schema.get("anyOf", [schema])
    kind: Kind = (
        "choice"
        if "enum" in kinds[0]
        else {"array": "list", "object": "json"}.get(kinds[0]["type"], kinds[0]["type"])
    )
    default = schema.get("default")
    default_text = "auto" if default is None else json.dumps(default).strip('"')
    label, help_ = QUESTIONS.get(name, label_of(name)), schema.get("description", "")
    choices = ("true", "false") if kind == "boolean" else tuple(kinds[0].get("enum", ()))
    return Field(
        OPENAI_NAMES.get(name, name),
        label,
        kind,
        default_text,
        "" if help_ == label else help_,
        choices,
    )


_FIELDS = {
    name: _field(name, schema)
    for name, schema in Recipe.model_json_schema()["properties"].items()
    if name not in LEFT_OUT and name not in JOB
}
MAIN_FIELDS = [_FIELDS[name] for name in MAIN_NAMES]
OTHER_FIELDS = [field for name, field in _FIELDS.items() if name not in MAIN_NAMES]
TEXTS = ("model", "training_file", "validation_file", "suffix")
TRACKERS = tracker_fields.FIELDS
NAMES = (
    *TEXTS,
    *JOB,
    *tracker_fields.NAMES,
    *BUDGET,
    *SERVICE,
    *(field.name for field in _FIELDS.values()),
)


def body_of(values: Values, shape: Shape | None) -> dict[str, Any]:
    """Return the request as JSON; what is left empty is left out. Texts that are no numbers stay
    texts, for the API to refuse.
    """
    texts = {name: text for name in NAMES if (text := values.get(name, "").strip())}
    body: dict[str, Any] = {name: texts[name] for name in TEXTS if name in texts}
    body |= {name: _read(kind, texts[name]) for name, kind in JOB.items() if name in texts}
    if trackers := read_trackers(texts):
        body.setdefault("integrations", trackers)
    settings = {
        name: _read(field.kind, texts[field.name])
        for name, field in _FIELDS.items()
        if field.name in texts
    }
    official = {OPENAI_NAMES[name]: settings.pop(name) for name in OPENAI_NAMES if name in settings}
    objective = objective_for(shape) if shape else "supervised"
    if objective == "dpo" and "beta" in settings:
        official["beta"] = settings.pop("beta")
    if official or objective != "supervised":
        body["method"] = {"type": objective}
    if official:
        body["method"][objective] = {"hyperparameters": official}
    settings |= {name: _read(kind, texts[name]) for name, kind in SERVICE.items() if name in texts}
    if budget := {name: _read(kind, texts[name]) for name, kind in BUDGET.items() if name in texts}:
        settings["budget"] = budget
    return body | ({"falqon": settings} if settings else {})


def request_of(values: Values, body: dict[str, Any]) -> JobRequest | Errors:
    """Return the request that `body`, of these values, is; or what is wrong with the fields."""
    if unread := {
        name: text for name, text in UNREADABLE.items() if isinstance(body.get(name), str)
    }:
        return unread
    try:
        return JobRequest.model_validate(body)
    except ValidationError as error:
        in_fields = not values.get(tracker_fields.AS_JSON, "").strip()
        refusals = [
            refusal_of(dict(fault) | {"loc": ("body", *fault["loc"])})
            for fault in error.errors(include_url=False)
        ]
        return dict(  # The first of several errors at one field wins.
            at_field(refusal, trackers_in_fields=in_fields) for refusal in reversed(refusals)
        )


def at_field(error: ApiError, *, trackers_in_fields: bool = True) -> tuple[str, str]:
    """Return the field and the text of an error; one of no field has the empty name, for the
    top.
    """
    param = error.param or ""
    name, *within = _path_of(param, trackers_in_fields)
    name = OPENAI_NAMES.get(name, OTHER_NAMES.get(name, name))
    if name not in NAMES:
        return "", error.message
    message = error.message.removeprefix(f"{param}: ")
    return name, ": ".join([*within, message])


def _path_of(param: str, trackers_in_fields: bool) -> list[str]:
    """Return the field that a parameter of the API is, and which part of that it is about."""
    match param.split("."):
        case ["integrations", _, tracker, option, *_] if trackers_in_fields:
            return [f"{tracker}_{option}"]
        case ["falqon", "budget", *path] | ["falqon", *path]:
            pass
        case ["method", *_, name] | ["hyperparameters", name]:
            return [name]
        case path:
            pass
    name, *within = path or [""]
    return [name, ".".join(within)] if within else [name]


def values_of(job: Job, width: int) -> dict[str, str]:
    """Fill in the form as it would have been for this job, whose base model has hidden size
    `width`.
    """
    request = job.requested
    resolved = read_recipe(request)
    fields: dict[str, Any] = {
        "model": request.model,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "suffix": request.suffix,
        "seed": resolved.recipe.seed if "seed" in resolved.recipe.model_fields_set else None,
        "priority": request.priority or None,
    }
    fields |= {
        field.name: getattr(resolved.recipe, name)
        for name, field in _FIELDS.items()
        if name in resolved.recipe.model_fields_set
    }
    if resolved.learning_rate_multiplier != 1.0:
        recipe = job.recipe or resolved.resolved(1, width)
        fields["learning_rate"] = recipe.learning_rate
    options = {name: getattr(request.falqon, name) for name in SERVICE}
    defaults = FalqonOptions.model_fields
    fields |= {name: value for name, value in options.items() if value != defaults[name].default}
    if request.falqon.budget:
        fields |= request.falqon.budget.model_dump(mode="json")
    if request.metadata:
        fields["metadata"] = _written_pairs(request.metadata)
    if request.integrations:
        fields |= write_trackers(request.integrations)
    return {name: _written(value) for name, value in fields.items() if value is not None}


def as_curl(body: dict[str, Any], origin: str) -> str:
    headers = '-H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json"'
    data = shlex.quote(json.dumps(body, indent=2, ensure_ascii=False))
    return f"curl {origin}/v1/fine_tuning/jobs \\\n  {headers} \\\n  -d {data}"


def as_python(body: dict[str, Any], origin: str) -> str:
    beyond = {name: body[name] for name in ("priority", "falqon") if name in body}  # OpenAI's
    extra = {"extra_body": beyond} if beyond else {}
    arguments = {name: value for name, value in body.items() if name not in beyond} | extra
    lines = [
        f"    {name}={_indented(pformat(value, width=80, sort_dicts=False))},"
        for name, value in arguments.items()
    ]
    start = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{origin}/v1")  # the key: OPENAI_API_KEY\n'
    )
    return start + "\n".join(
        ["job = client.fine_tuning.jobs.create(", *lines, ")", "print(job.id)"]
    )


def _indented(text: str) -> str:
    return text.replace("\n", "\n        ")


def _read(kind: Kind, text: str) -> Any:
    try:
        match kind:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return {"true": True, "false": False}.get(text, text)
            case "list":
                return [part.strip() for part in text.split(",")]
            case "json":
                return json.loads(text)
            case "pairs":
                return _read_pairs(text)
            case _:
                return text
    except (ValueError, RecursionError):
        return text


def _read_pairs(text: str) -> dict[str, str]:
    """Read `key=value` lines or a JSON object. Raises `ValueError`."""
    if text.startswith("{"):
        members: dict[str, str] = json.loads(text)
        return members
    lines = [line.partition("=") for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    pairs = {key.strip(): value.strip() for key, equals, value in lines if equals and key.strip()}
    if len(pairs) < len(lines):
        raise ValueError("a line without a key of its own")
    return pairs


def _written_pairs(pairs: dict[str, str]) -> str:
    """Write `key=value` lines, or JSON where these would not be read back as the same pairs."""
    lines = "\n".join(f"{key}={value}" for key, value in pairs.items())
    if not lines.startswith("{") and _read("pairs", lines.strip()) == pairs:
        return lines
    return json.dumps(pairs, indent=2, ensure_ascii=False)


def _written(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ", ".join(value)
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
