"""Recipe and estimate of a job whose training data are known. Free of the web framework: the worker
resolves a job after the check of its files.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.errors import InvalidRequest
from app.base.settings import Settings
from app.catalogue.naming import fine_tuned_name
from app.dataset_statistics.service import exact_amount
from app.estimates import service as estimates
from app.files import lookup as files
from app.files.unused import describe_unused_fields
from app.jobs.budget_warnings import warn_of_budget
from app.jobs.gpus import limit_auto
from app.jobs.requests import RequestedRecipe
from app.models import Checkpoint, File, FileStatus, Model, Project
from app.models.job_request import JobRequest, TrainingData
from falqon_core.contract.automatic import MIN_RECORDS
from falqon_core.contract.config import Recipe
from falqon_core.estimate.estimate import Estimate, TokensBasis
from falqon_core.estimate.long_text import EpochAmount
from falqon_core.records.file_check import FileReport
from falqon_core.records.shapes import wrong_kind

UNKNOWN_TAIL = "00000000"  # of a job that has no id yet


@dataclass(frozen=True)
class JobPlan:
    """A request that passed every check that needs no training data, with the rows it names."""

    project_id: str
    request: JobRequest
    requested: RequestedRecipe
    model: Model
    checkpoint: Checkpoint | None  # of a training of that model, to continue from
    num_gpus: int


@dataclass(frozen=True)
class FilePlan(JobPlan):
    """A plan with the files of the job."""

    training: File
    validation: File | None

    @property
    def files(self) -> dict[str, File]:
        """Return the files by parameter name."""
        files = {"training_file": self.training, "validation_file": self.validation}
        return {param: file for param, file in files.items() if file is not None}

    @property
    def is_checked(self) -> bool:
        return all(file.status == FileStatus.PROCESSED for file in self.files.values())


@dataclass(frozen=True)
class ResolvedJob:
    recipe: Recipe
    estimate: Estimate
    num_gpus: int
    unused_fields: str | None = None  # a warning, which the estimate has too


def incompatibility(file: File, recipe: Recipe) -> str | None:
    """Return why a file that passed its check cannot train with this recipe; None when it can."""
    report = file.report
    assert report is not None, "a processed file has a report"
    reason = report.too_bad(recipe.max_bad_record_fraction) or (
        wrong_kind(report.shape, recipe.objective) if report.shape else None
    )
    return f"{file.filename}: {reason}" if reason else None


def check_held_out(plan: FilePlan) -> None:
    """Check that records to train on are left of a training file that passed its check. Raises
    `InvalidRequest`.
    """
    report = plan.training.report
    assert report is not None, "a processed file has a report"
    recipe = plan.requested.recipe.with_fraction(report.num_records, plan.validation is not None)
    if recipe.num_held_out(report.num_records) >= report.num_records:
        raise InvalidRequest(
            f"falqon.validation_fraction: {report.num_records} records are too few "
            "to hold some out.",
            param="falqon.validation_fraction",
        )


def resolve_job(
    session: Session,
    settings: Settings,
    plan: FilePlan,
    target: estimates.TrainingTarget | None = None,
) -> ResolvedJob:
    """Resolve a job whose training file has passed its check."""
    report = plan.training.report
    assert report is not None, "a processed file has a report"
    requested = plan.requested.recipe
    amount = exact_amount(session, plan.training.id, plan.model.id, requested)
    recipe = plan.requested.resolved(
        report.num_records,
        estimates.width_of(plan.model),
        num_examples=estimates.amount_of_file(report, requested, amount).num_examples,
        has_validation_file=plan.validation is not None,
    )
    validation_report = plan.validation.report if plan.validation is not None else None
    resolved = _estimate(
        session, settings, plan, recipe, report, amount, "counted", target, validation_report
    )
    unused_fields = describe_unused_fields(session, plan.training)
    warnings = [unused_fields] if unused_fields else []
    is_left_open = requested.validation_fraction is None and not requested.find_rate
    if is_left_open and not resolved.estimate.num_validation_records:
        warnings.append(
            f"No record is held out to check the model: the file has fewer than {MIN_RECORDS}. "
            "Send a validation file, or set validation_fraction."
        )
    budget = plan.request.falqon.budget
    warnings += [each.text for each in warn_of_budget(budget, resolved.estimate)]
    warnings = resolved.estimate.warnings + warnings
    estimate = resolved.estimate.model_copy(update={"warnings": warnings})
    return ResolvedJob(recipe, estimate, resolved.num_gpus, unused_fields)


def resolve_stated(
    session: Session,
    settings: Settings,
    plan: JobPlan,
    data: TrainingData,
    target: estimates.TrainingTarget | None = None,
) -> ResolvedJob:
    """Resolve a job whose training file is not here yet, from its stated size; its validation file
    need not be here either. Raises `InvalidRequest` for one that is here and cannot be used.
    """
    validation_file = plan.request.validation_file
    recipe = plan.requested.resolved(
        data.num_records,
        estimates.width_of(plan.model),
        has_validation_file=validation_file is not None,
    )
    validation = files.find(session, plan.project_id, validation_file)
    if validation is not None:
        validation = files.get_usable(session, plan.project_id, validation.id, "validation_file")
    report = FileReport(num_records=data.num_records)
    amount = EpochAmount(data.num_records, data.num_tokens)
    validation_report = validation.report if validation is not None else None
    return _estimate(
        session, settings, plan, recipe, report, amount, "stated", target, validation_report
    )


def _estimate(
    session: Session,
    settings: Settings,
    plan: JobPlan,
    recipe: Recipe,
    report: FileReport,
    amount: EpochAmount | None,
    tokens_basis: TokensBasis,
    target: estimates.TrainingTarget | None,
    validation_report: FileReport | None = None,
) -> ResolvedJob:
    num_gpus = limit_auto(plan.num_gpus, plan.request, recipe)
    estimate = estimates.estimate_job(
        session,
        plan.model,
        recipe,
        report,
        settings,
        project_id=plan.project_id,
        amount=amount,
        tokens_basis=tokens_basis,
        target=target,
        gpu=plan.request.falqon.gpu,
        num_gpus=num_gpus,
        validation_report=validation_report,
        evaluated_models=_evaluated_models(session, plan),
    )
    return ResolvedJob(recipe, estimate, num_gpus)


def _evaluated_models(session: Session, plan: JobPlan) -> list[str]:
    """Return the models that the evaluation asks: the base, those that the name of a switch stands
    for, and the job's own, by the name that it would have.
    """
    options = plan.request.falqon
    project = session.get_one(Project, plan.project_id)
    base = plan.model.id if plan.checkpoint is None else plan.request.model
    result = fine_tuned_name(plan.model.id, project.name, plan.request.suffix, UNKNOWN_TAIL)
    if options.switch is not None:
        alias = aliases.find_own(session, plan.project_id, options.switch.alias)
        current = {target.model for target in alias.targets.models} if alias else set()
        return [base, *sorted(current - {base}), result]
    is_wanted = options.evaluate and project.evaluate
    return [base, result] if is_wanted else []
