"""Use cases of estimates."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.base.processes.device import CPU, cores_of_slot, device_name
from app.base.settings import Settings
from app.estimates import repository
from app.estimates.schemas import AccuracyObject
from app.http.pagination import Page
from app.models import Model
from app.models.alias import is_upstream
from app.models.base import JsonObject
from app.models.falqon_options import ANY_DEVICE
from app.prices import service as prices
from app.services import Services
from app.workers import service as workers
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.contract.formats import EXACT_GGUF, FormatUnavailable, check_format
from falqon_core.contract.gguf_support import engine_note
from falqon_core.contract.methods import group_size_refusal, rank_refusal
from falqon_core.estimate.block_fit import weights_refusal
from falqon_core.estimate.cards import find_device, with_measured_peak
from falqon_core.estimate.devices import DEVICES, DeviceSpec
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import (
    Estimate,
    TokensBasis,
    estimate,
    tokens_from_characters,
    training_flops,
)
from falqon_core.estimate.evaluation import EvaluationEstimate, estimate_evaluation
from falqon_core.estimate.long_text import EpochAmount, amount_from_lengths
from falqon_core.estimate.throughput import ThroughputSample, median_sample, throughput
from falqon_core.records.file_check import FileReport

MAX_PEAK_MULTIPLE = 10.0  # multiple of a device's arithmetic peak; a faster sample is implausible
MIN_SAMPLES = 3  # samples of a project that make an estimate of its own
NEWEST_SAMPLES = 50  # samples per project; machines and versions change


class TrainingTarget(NamedTuple):
    """Target device of a job; on a CPU, `num_devices` counts the cores of a slot."""

    device: DeviceSpec
    num_devices: int


def list_accuracy(services: Services, caller: Caller) -> Page[AccuracyObject]:
    """Compare the project's newest jobs with their estimates, except those that stopped early."""
    with services.database.read() as session:
        ended = repository.list_ended(session, caller.project_id)
    grouped: dict[tuple[str, str, str], list[tuple[float, bool]]] = {}
    for job in ended:
        if job.actual.ratio is not None:
            outcome = (job.actual.ratio, bool(job.actual.inside_band))
            grouped.setdefault((job.model, job.method, job.device), []).append(outcome)
    return Page[AccuracyObject].of(
        [
            AccuracyObject(
                id=f"{model}:{method}:{device}",
                model=model,
                method=method,
                device=device,
                n=len(outcomes),
                median_ratio=round(statistics.median(ratio for ratio, _ in outcomes), 4),
                inside_band=round(statistics.fmean(inside for _, inside in outcomes), 4),
            )
            for (model, method, device), outcomes in sorted(grouped.items())
        ]
    )


def device_of(settings: Settings) -> TrainingTarget:
    """Return the device of this machine: the configured one, or the card that its driver names."""
    name = device_name(settings)
    if (device := find_device(name)) is None:
        raise ValueError(f"FALQON_DEVICE is '{name}'; known devices: {', '.join(sorted(DEVICES))}")
    return TrainingTarget(device, cores_of_slot(settings) if name == CPU else 1)


def target_of(session: Session, settings: Settings, device: str = ANY_DEVICE) -> TrainingTarget:
    """Return the target device of jobs: the requested device, else the configured one, else that of
    the newest worker, else that of this machine.
    """
    if device != ANY_DEVICE:
        worker = workers.newest(session, device)
        return target_named(device, worker.num_devices if worker else 1)
    worker = workers.newest(session) if settings.device == "auto" else None
    device_of_worker = find_device(worker.device) if worker is not None else None
    # A device without a specification is of a newer version.
    if worker is not None and device_of_worker is not None:
        return TrainingTarget(device_of_worker, worker.num_devices)
    return device_of(settings)


def most_gpus(session: Session, settings: Settings, device: str) -> TrainingTarget:
    """Return the most devices that one job can have of its target."""
    target = target_of(session, settings, device)
    most = workers.most_gpus(session, settings).get(target.device.name, 1)
    return target._replace(num_devices=target.num_devices * most)


def live_targets(session: Session, settings: Settings) -> list[TrainingTarget]:
    """Return each kind of device that a live worker has, as the target of a job with one GPU."""
    names = workers.most_gpus(session, settings)
    return [target_of(session, settings, name) for name in sorted(names) if find_device(name)]


def target_named(device: str, num_devices: int) -> TrainingTarget:
    """Return the target with this name. Raises `InvalidRequest`."""
    if (entry := find_device(device)) is None:
        raise InvalidRequest(
            f"device: '{device}' is not known; known devices: {', '.join(sorted(DEVICES))}",
            param="device",
            code="unknown_device",
        )
    return TrainingTarget(entry, num_devices)


def check_device(session: Session, name: str, settings: Settings) -> None:
    """Check that a worker has this device, or had it lately. Raises `InvalidRequest`."""
    if name == ANY_DEVICE:
        return
    devices = {device for device in workers.devices(session) if find_device(device)}
    devices |= {target_of(session, settings).device.name}
    if name not in devices:
        offered = "', '".join(sorted(devices))
        raise InvalidRequest(
            f"falqon.gpu: no worker trains on '{name}'; this service trains on '{offered}'.",
            param="falqon.gpu",
            code="gpu_not_available",
        )


def estimate_job(
    session: Session,
    model: Model,
    recipe: Recipe,
    report: FileReport,
    settings: Settings,
    *,
    project_id: str | None = None,
    amount: EpochAmount | None = None,
    tokens_basis: TokensBasis = "counted",
    target: TrainingTarget | None = None,
    gpu: str = ANY_DEVICE,
    num_gpus: int = 1,
    validation_report: FileReport | None = None,
    evaluated_models: Sequence[str] = (),
) -> Estimate:
    """Estimate a job. `recipe` must be resolved. `validation_report`: of the validation file, where
    there is one. `evaluated_models`: that answer those records once it has succeeded, where an
    engine answers for its model.
    `project_id`: the project whose measurements come before those of others. `amount`: of the whole
    training file, once this model's tokenizer has counted it, or as `tokens_basis` says. Without a
    `target`, on `num_gpus` of the device that `gpu` names, or of the default one.
    """
    if target is None:
        device, num_devices = target_of(session, settings, gpu)
        target = TrainingTarget(device, num_devices * num_gpus)
    num_held_out = recipe.num_held_out(report.num_records)
    records = max(1, report.num_records - num_held_out)
    whole = amount_of_file(report, recipe, amount)
    checked = EpochAmount(
        whole.num_examples * num_held_out // max(1, report.num_records),
        whole.num_tokens * num_held_out // max(1, report.num_records),
    )
    shape_held_out = (validation_report or report).shape
    if validation_report is not None:
        num_held_out = validation_report.num_records
        checked = amount_of_file(validation_report, recipe, None)
    result = estimate(
        ModelDimensions.from_config(model.config),
        recipe,
        num_records=records,
        num_examples=whole.num_examples * records // max(1, report.num_records),
        tokens_per_epoch=whole.num_tokens * records // max(1, report.num_records),
        num_validation_records=num_held_out,
        num_validation_examples=checked.num_examples,
        validation_tokens=checked.num_tokens,
        device=with_measured_peak(
            target.device, workers.measured_tflops(session, target.device.name)
        ),
        num_devices=target.num_devices,
        price=prices.price_of(session, settings, target.device.name),
        throughput=throughput(_samples(session, model, recipe, target, project_id)),
        calibration=workers.calibration_of(session, target.device.name),
        tokens_basis="characters" if amount is None else tokens_basis,
    )
    if not settings.engine_url:
        result = result.model_copy(update={"engine_note": engine_note(model.config)})
    has_questions = num_held_out and shape_held_out != "text" and not recipe.find_rate
    if evaluated_models and has_questions and not result.engine_note:
        tokens_per_row = checked.num_tokens / num_held_out
        rows = (num_held_out, tokens_per_row, evaluated_models)
        evaluation = _estimate_evaluation(session, settings, model, *rows, target, project_id)
        result = result.model_copy(update={"evaluation": evaluation})
    if amount is None and report.num_learned_turns > report.num_records:
        most = tokens_from_characters(report.num_turn_characters, report.num_learned_turns)
        factor = most / whole.num_tokens
        explanation = (
            f"{result.explanation}, up to {factor:.1f} times as many where the model's chat "
            "template rewrites earlier turns, which a count of the tokens tells"
        )
        return result.model_copy(update={"explanation": explanation})
    return result


def _estimate_evaluation(
    session: Session,
    settings: Settings,
    model: Model,
    num_rows: int,
    tokens_per_row: float,
    models: Sequence[str],
    target: TrainingTarget,
    project_id: str | None,
) -> EvaluationEstimate:
    is_cpu = target.device.name == CPU

    def is_charged(model_id: str) -> bool:
        return not is_upstream(model_id) and not settings.engine_url_of(model_id)

    measured = None
    if project_id:
        measured = repository.find_answer_rate(session, project_id, model.id, is_charged)
    return estimate_evaluation(
        ModelDimensions.from_config(model.config),
        num_rows,
        tokens_per_row,
        target.device.name,
        prices.price_of(session, settings, target.device.name),
        target.num_devices if is_cpu else 1,
        measured,
        len(models),
        sum(map(is_charged, models)),
    )


def _samples(
    session: Session, model: Model, recipe: Recipe, target: TrainingTarget, project_id: str | None
) -> list[ThroughputSample]:
    """Return what is believed of what attempts measured. A worker may belong to a single project
    and report what it likes: nothing is as fast as no device is, a project that has measured enough
    is estimated by itself, and each other one counts once.
    """
    flops = training_flops(ModelDimensions.from_config(model.config), recipe, 1, 0.0)
    peak = MAX_PEAK_MULTIPLE * target.device.tflops * 1e12 * target.num_devices / flops
    rows = repository.samples(
        session, model.id, recipe.kind, target.device.name, target.num_devices
    )
    by_project: dict[str, list[ThroughputSample]] = {}
    for row in rows:
        samples = by_project.setdefault(row.project_id, [])
        if row.sample.tokens_per_second <= peak and len(samples) < NEWEST_SAMPLES:
            samples.append(row.sample)
    own = by_project.pop(project_id or "", [])
    if len(own) >= MIN_SAMPLES:
        return own
    return own + [median_sample(samples) for samples in by_project.values() if samples]


def amount_of_file(report: FileReport, recipe: Recipe, counted: EpochAmount | None) -> EpochAmount:
    """Return what an epoch of the whole file is; from its characters where nobody has counted."""
    num_tokens = tokens_from_characters(report.num_characters, report.num_sequences)
    if report.shape != "text":
        return EpochAmount(report.num_records, counted.num_tokens if counted else num_tokens)
    if counted is not None:
        return counted
    amount = amount_from_lengths(report.text_lengths, num_tokens, recipe)
    return amount._replace(num_examples=max(amount.num_examples, report.num_records))


def width_of(model: Model) -> int:
    """Return the hidden size of a base model. Raises `InvalidRequest`."""
    return _dimensions(model.config).hidden_size


def check_fits_model(config: JsonObject, recipe: Recipe) -> None:
    """Check that the trainer accepts the recipe on this base model. Raises `InvalidRequest`."""
    dimensions = _dimensions(config)
    names = dimensions.linear_shapes
    unknown = sorted(set(recipe.target_modules or ()) - set(names))
    if unknown:
        raise InvalidRequest(
            f"falqon.target_modules: this model has no linear layer {', '.join(unknown)}; "
            f"it has {', '.join(names)}",
            param="falqon.target_modules",
        )
    chosen = recipe.target_modules or names
    shapes = [
        (name, shape)
        for kind in dimensions.layer_kinds
        for name, shape in kind.linear_shapes.items()
        if name in chosen
    ]
    num_inputs = [(name, inputs) for name, (_, inputs) in shapes]
    smallest = min(inputs for _, inputs in num_inputs)
    if recipe.rank > smallest:
        raise InvalidRequest(
            f"falqon.rank: {recipe.rank} is more than the {smallest} inputs of a layer",
            param="falqon.rank",
        )
    if recipe.method == "ir_lora" and (refusal := rank_refusal(recipe.rank, shapes)):
        raise InvalidRequest(f"falqon.rank: {refusal}", param="falqon.rank")
    _check_weights(config, recipe)
    group_size = recipe.resolved(num_records=1).group_size
    if group_size and (refusal := group_size_refusal(group_size, num_inputs)):
        raise InvalidRequest(f"falqon.group_size: {refusal}", param="falqon.group_size")


def _check_weights(config: JsonObject, recipe: Recipe) -> None:
    """Raise `InvalidRequest` where the model does not fit into blocks, or these are llama.cpp's and
    there is no file for llama.cpp.
    """
    refusal = weights_refusal(_dimensions(config), recipe)
    exact = EXACT_GGUF.get(recipe.weights)
    if refusal is None and exact is not None:
        try:
            check_format(exact, recipe, config)
        except FormatUnavailable as error:
            reason, _, _ = str(error).removeprefix("format: ").partition("; take ")
            refusal = (
                f"{recipe.weights} is a form of llama.cpp's, and {reason}; take fp8, nvfp4 or mxfp4"
            )
    if refusal is not None:
        raise InvalidRequest(f"falqon.weights: {refusal}", param="falqon.weights")


def _dimensions(config: JsonObject) -> ModelDimensions:
    try:
        return ModelDimensions.from_config(config)
    except (ModelError, ValidationError) as error:
        raise InvalidRequest(f"model: {error}", param="model", code="model_refused") from None
