"""Jobs of a study, and the study that tries several of one job."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from app.base.errors import InvalidRequest, refusal_of
from app.jobs.requests import read_recipe
from app.models.base import JsonObject
from app.models.job_request import JobRequest
from app.models.study_request import MAX_NAME, StudyRequest
from falqon_core.contract.methods import MethodName, foreign_options

THREE_RATES = (0.3, 1.0, 3.0)
# What a study says itself, or has no place for.
OF_ONE_JOB = {"method", "objective", "find_rate", "switch", "early_stopping"}


def job_requests(request: StudyRequest, width: int) -> list[JobRequest]:
    """Return the requests by method, rate and seed, for a base model of hidden size `width`. Raises
    `InvalidRequest` for the first one refused.
    """
    options = {method: _options_of(method, request.falqon) for method in request.methods}
    used = {name for of_method in options.values() for name in of_method}
    if foreign := [name for name in request.falqon if name not in used]:
        raise _unknown(f"falqon.{foreign[0]}", "none of the methods has it")
    if foreign := sorted(request.learning_rates.keys() - set(request.methods)):
        raise _unknown(f"learning_rates.{foreign[0]}", "it is none of the methods")
    seeds: list[int | None] = [*request.seeds] if request.seeds else [None]
    return [
        _job_request(request, method, with_rate, seed)
        for method in request.methods
        for with_rate in _add_rates(request, method, options[method], width)
        for seed in seeds
    ]


def study_like(
    request: JobRequest,
    name: str | None,
    *,
    methods: Sequence[str] = (),
    rate_factors: Sequence[float] = (1.0,),
) -> StudyRequest:
    """Return the study that trains as a job would, with these methods or else its own, at these
    times its learning rate. Raises `InvalidRequest`.
    """
    asked = read_recipe(request)
    options = request.falqon.model_dump(mode="json", exclude_unset=True)
    options |= asked.recipe.model_dump(mode="json", exclude_unset=True)
    body: dict[str, Any] = {
        "model": request.model,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "methods": list(methods) or [asked.recipe.method],
        "objective": asked.recipe.objective,
        "rate_factors": [asked.learning_rate_multiplier * factor for factor in rate_factors],
        "falqon": {key: value for key, value in options.items() if key not in OF_ONE_JOB},
        "name": name and name[:MAX_NAME],
    }
    try:
        return StudyRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise refusal_of({**first, "loc": ("body", *first["loc"])}) from None


def _add_rates(
    request: StudyRequest, method: MethodName, options: JsonObject, width: int
) -> list[JsonObject]:
    """Return the options once for each learning rate to try."""
    if method in request.learning_rates:
        options = options | {"learning_rate": request.learning_rates[method]}
    if request.rate_factors == [1.0]:
        return [options]
    recipe = read_recipe(_job_request(request, method, options, None)).recipe
    rate = recipe.learning_rate or recipe.automatic_rate(width).value
    return [
        options | {"learning_rate": float(f"{rate * factor:.6g}")}
        for factor in request.rate_factors
    ]


def _options_of(method: MethodName, falqon: JsonObject) -> JsonObject:
    foreign = set(foreign_options(method))
    if method == "ir_lora" and falqon.get("quantizer") != "int4":
        foreign.add("group_size")  # its other quantizer has blocks of a size of their own
    return {name: value for name, value in falqon.items() if name not in foreign}


def _job_request(
    request: StudyRequest, method: MethodName, options: JsonObject, seed: int | None
) -> JobRequest:
    suffix: list[str] = [method]
    if len(request.rate_factors) > 1 and "learning_rate" in options:
        suffix.append(f"rate-{options['learning_rate']:g}")
    if seed is not None:
        suffix.append(f"seed-{seed}")
    body: dict[str, Any] = {
        "model": request.model,
        "training_file": request.training_file,
        "suffix": "-".join(suffix),
        "method": {"type": request.objective},
        "falqon": options | {"method": method},
    }
    if request.validation_file is not None:
        body["validation_file"] = request.validation_file
    if seed is not None:
        body["seed"] = seed
    try:
        return JobRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise refusal_of({**first, "loc": ("body", *first["loc"])}) from None


def _unknown(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {reason}.", param=param, code="unknown_parameter")
