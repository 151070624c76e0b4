"""Use cases of switches: a name moves to a new model, if an evaluation finds that not worse."""

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.auth import audit
from app.auth.caller import Caller
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.catalogue import service as catalogue
from app.evaluations import plan
from app.evaluations.service import MAX_IN_PROGRESS
from app.http.pagination import Page, check_cursor
from app.jobs import lookup as jobs
from app.models import Alias, Evaluation, Job
from app.models.evaluation import EvaluationPlan
from app.models.switch_options import SwitchOptions
from app.operations import service as operations
from app.projects import quotas
from app.services import Services
from app.switches import canary, gate, repository
from app.switches.schemas import SwitchObject, SwitchRequest


def create_switch(
    services: Services, caller: Caller, name: str, request: SwitchRequest
) -> SwitchObject:
    """Have a model compared with those that a name of the project stands for now. A worker moves
    the name when it ends the evaluation, or leaves it.
    """
    project_id = caller.project_id
    with services.database.transaction() as session:
        alias = aliases.get_own(session, project_id, name)
        job = _job_of(session, project_id, request.model)
        rivals = _check(session, alias, request)
        plan.check_judges(session, caller, services.settings, request)
        file_id, origin = plan.rows_of(session, project_id, job, request.file)
        planned = EvaluationPlan(
            graders=request.graders,
            models=plan.models_of(session, project_id, job, rivals=rivals),
            rivals=rivals,
            max_rows=request.max_rows,
            max_tokens=request.max_tokens,
        )
        operations.admit(session, Evaluation, project_id, MAX_IN_PROGRESS)
        evaluation = plan.add(session, job, file_id, origin, planned, caller.key_id)
        options = SwitchOptions(alias=name, canary=request.canary)
        switch = gate.new_switch(job, options, alias, evaluation, caller.key_id)
        session.add(switch)
        session.flush()
        session.refresh(switch)
        audit.record(session, caller, "alias.switch_created", name)
        quotas.admit_execution(session, project_id)
        created = SwitchObject.of(switch)
    services.notifier.notify(Evaluation, evaluation.id)
    return created


def list_switches(
    services: Services, caller: Caller, name: str, *, after: str | None, limit: int
) -> Page[SwitchObject]:
    """List the switches of a name, the newest first."""
    check_cursor(after, gate.ID_PREFIX, "a switch")
    with services.database.read() as session:
        aliases.get_own(session, caller.project_id, name)
        rows = repository.newest_first(session, caller.project_id, name, after=after, limit=limit)
    return Page[SwitchObject].of([SwitchObject.of(switch) for switch in rows], limit)


def newest_by_alias(services: Services, caller: Caller) -> dict[str, SwitchObject]:
    """Return the newest switch of each name."""
    with services.database.read() as session:
        switches = repository.newest_by_alias(session, caller.project_id)
    return {name: SwitchObject.of(switch) for name, switch in switches.items()}


def retrieve_switch(services: Services, caller: Caller, name: str, switch_id: str) -> SwitchObject:
    with services.database.read() as session:
        switch = repository.find(session, caller.project_id, name, switch_id)
    if switch is None:
        raise NotFound(
            f"There is no switch '{switch_id}' of this name.",
            param="switch_id",
            code="switch_not_found",
        )
    return SwitchObject.of(switch)


def _job_of(session: Session, project_id: str, model_id: str) -> Job:
    """Return the locked job whose result a model is: its held-out rows decide, and it pays."""
    job_id = catalogue.get(session, project_id, model_id).job_id
    job = jobs.get(session, project_id, job_id, lock=True) if job_id is not None else None
    if job is None or job.fine_tuned_model_id != model_id:
        raise InvalidRequest(
            f"model: '{model_id}' is not the result of a job here, so nothing was held out to "
            "compare it on; `falqon aliases set` lets a name stand for it.",
            param="model",
            code="model_of_no_job",
        )
    return job


def _check(session: Session, alias: Alias, request: SwitchRequest) -> list[str]:
    """Return the models to compare with. Raises where the switch could change nothing."""
    targets = alias.targets
    rivals = [target.model for target in targets.models if target.model != request.model]
    if not rivals:
        raise IllegalState(
            f"'{alias.name}' stands for '{request.model}' already.", code="alias_is_switched"
        )
    assert alias.project_id is not None, "it is the project's own"
    open_switch = repository.find_open(session, alias.project_id, alias.name)
    if open_switch is not None:
        raise IllegalState(
            f"The switch of '{alias.name}' to {open_switch.model_id} has not ended. Wait for it, "
            f"or end its canary: `falqon aliases rollback {alias.name}`.",
            code="switch_in_progress",
        )
    if request.canary is not None and not canary.has_room(targets, request.model):
        raise InvalidRequest(
            f"canary: '{alias.name}' stands for {len(targets.models)} models already, the most.",
            param="canary",
            code="too_many_models",
        )
    return rivals
