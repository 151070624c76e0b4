"""The gate of a name: what an evaluation decides. Free of the web framework: a worker publishes the
model of a job, and ends evaluations.

Each function is a part of the transaction that publishes or ends: a process that is killed leaves
the name and the switch as they were, and the next attempt decides.
"""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.aliases import service as aliases
from app.base.errors import ApiError
from app.base.ids import new_id
from app.evaluations import automatic as evaluations
from app.models import Alias, AliasSwitch, Evaluation, Job, SwitchStatus
from app.models.alias import AliasTarget, AliasTargets
from app.models.alias_switch import CanaryStart
from app.models.evaluation import EvaluationResult
from app.models.switch_options import SwitchOptions
from app.switches import canary, outcome, repository, rule

ID_PREFIX = "switch-"


def begin(session: Session, job: Job) -> None:
    """Add the evaluation that follows a success, and the switch that it decides, if the job has
    one. Obstacles are told: the job has succeeded either way.
    """
    options = job.requested.falqon.switch
    if options is None:
        evaluations.begin(session, job)
        return
    alias = aliases.find_own(session, job.project_id, options.alias)
    obstacle = _find_obstacle(session, job, alias, options)
    rivals = [] if alias is None or obstacle else [target.model for target in alias.targets.models]
    evaluation = evaluations.begin(session, job, rivals)
    if evaluation is None and obstacle is None:
        obstacle = "no evaluation compares the models; the job's events and its estimate say why"
    switch = new_switch(job, options, alias, None if obstacle else evaluation, job.key_id)
    session.add(switch)
    if obstacle is not None:
        outcome.record(session, switch, SwitchStatus.KEPT, obstacle)


def new_switch(
    job: Job,
    options: SwitchOptions,
    alias: Alias | None,
    evaluation: Evaluation | None,
    key_id: str | None,
) -> AliasSwitch:
    return AliasSwitch(
        id=new_id(ID_PREFIX),
        project_id=job.project_id,
        alias=options.alias,
        alias_version=alias.version if alias else 0,
        model_id=job.fine_tuned_model_id,
        job_id=job.id,
        evaluation_id=evaluation.id if evaluation else None,
        canary_percent=options.canary,
        status=SwitchStatus.EVALUATING,
        key_id=key_id,
    )


def decide(session: Session, evaluation: Evaluation, result: EvaluationResult) -> None:
    """Move the name of the switch that an evaluation decides, or leave it. The rows of job and
    evaluation are locked.
    """
    switch = repository.lock_of_evaluation(session, evaluation.id)
    if switch is None:
        return
    judgement = rule.judge(result)
    if not judgement.passes:
        outcome.record(session, switch, SwitchStatus.KEPT, judgement.reason)
        return
    alias = aliases.lock_own(session, switch.project_id, switch.alias)
    if alias is None or alias.version != switch.alias_version:
        outcome.record(session, switch, SwitchStatus.KEPT, "it was changed during the evaluation")
        return
    try:
        status = _move(session, switch, alias)
    except ApiError as error:  # a model has been deleted
        outcome.record(session, switch, SwitchStatus.KEPT, error.message.removesuffix("."))
    else:
        outcome.record(session, switch, status, judgement.reason)


def give_up(session: Session, evaluation: Evaluation, message: str) -> None:
    """Leave the name of a switch whose evaluation has failed."""
    switch = repository.lock_of_evaluation(session, evaluation.id)
    if switch is not None:
        reason = f"the evaluation has failed: {message.removesuffix('.')}"
        outcome.record(session, switch, SwitchStatus.KEPT, reason)


def _move(session: Session, switch: AliasSwitch, alias: Alias) -> SwitchStatus:
    """Let the name stand for the model, or send a share of its requests there."""
    if switch.canary_percent is None:
        move_fully(session, switch, alias)
        return SwitchStatus.SWITCHED
    day = datetime.now(UTC).date()
    targets = canary.add_share(alias.targets, switch.model_id, switch.canary_percent)
    moved = move(session, switch, alias, targets)
    switch.canary_start = CanaryStart(
        version=moved.version,
        before=alias.targets,
        day=day,
        counts=aliases.counts_since(session, switch.project_id, switch.alias, day),
    )
    return SwitchStatus.CANARY


def move(session: Session, switch: AliasSwitch, alias: Alias, targets: AliasTargets) -> Alias:
    """Let the name of a switch stand for others."""
    return aliases.move(session, alias, targets, switch_id=switch.id, key_id=switch.key_id)


def move_fully(session: Session, switch: AliasSwitch, alias: Alias) -> None:
    move(session, switch, alias, AliasTargets(models=[AliasTarget(model=switch.model_id)]))


def _find_obstacle(
    session: Session, job: Job, alias: Alias | None, options: SwitchOptions
) -> str | None:
    if alias is None:
        return "it was deleted before the job succeeded"
    if repository.find_open(session, job.project_id, options.alias) is not None:
        return "another switch of it has not ended"
    if options.canary and not canary.has_room(alias.targets, job.fine_tuned_model_id or ""):
        return "it stands for too many models to add a canary"
    return None
