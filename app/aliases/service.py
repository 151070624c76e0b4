"""Use cases of aliases: names that stand for models, and change while the service runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.aliases import repository
from app.aliases.repository import AliasSum
from app.aliases.schemas import AliasDeleted, AliasObject, AliasRequest, AliasUsage
from app.aliases.traffic import Traffic
from app.auth import audit
from app.auth.caller import Caller
from app.base.database import Database
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.http.pagination import Page
from app.models import Alias, AliasDay
from app.models.alias import AliasTarget, AliasTargets, is_upstream
from app.models.alias_switch import RequestCount
from app.services import Services

MAX_ALIASES = 200  # of a project, and of the installation


def list_aliases(services: Services, caller: Caller) -> Page[AliasObject]:
    """Return the names that the project may use, sorted."""
    with services.database.read() as session:
        aliases = repository.list_visible(session, caller.project_id)
    return Page[AliasObject].of([AliasObject.of(alias) for alias in aliases])


def retrieve_alias(services: Services, caller: Caller, name: str) -> AliasObject:
    with services.database.read() as session:
        alias = repository.find_visible(session, caller.project_id, name)
        if alias is None:
            raise _unknown(name)
        return AliasObject.of(alias)


def put_alias(
    services: Services, caller: Caller, request: AliasRequest, *, everywhere: bool
) -> AliasObject:
    """Let a name stand for models, from the next second on; running answers end as they began."""
    owner = _owner(caller, everywhere=everywhere)
    name = request.name
    with services.database.transaction() as session:
        repository.lock(session, owner)
        _check_name(session, caller.project_id, name)
        _check_models(session, owner, name, request.targets)
        before = repository.find(session, owner, name)
        _check_upstream(services, caller, before, request.targets)
        _check_number(session, owner, before)
        if before is not None and before.targets == request.targets:
            return AliasObject.of(before)
        alias = repository.add_version(session, owner, name, request.targets, caller.key_id)
        audit.record(session, caller, "alias.updated", name)
        return AliasObject.of(alias)


def delete_alias(
    services: Services, caller: Caller, name: str, *, everywhere: bool
) -> AliasDeleted:
    owner = _owner(caller, everywhere=everywhere)
    with services.database.transaction() as session:
        repository.lock(session, owner)
        before = repository.find(session, owner, name)
        if before is None or not before.targets.models:
            raise _unknown(name)
        repository.add_version(session, owner, name, AliasTargets(), caller.key_id)
        audit.record(session, caller, "alias.deleted", name)
    return AliasDeleted(id=name)


def roll_back(
    services: Services, caller: Caller, name: str, version: int | None, *, everywhere: bool
) -> AliasObject:
    """Put an earlier version in force again, by default the one before the newest, or before all
    that a switch set; it gets a new number.
    """
    owner = _owner(caller, everywhere=everywhere)
    with services.database.transaction() as session:
        repository.lock(session, owner)
        versions = repository.versions(session, owner, name)
        if not versions:
            raise _unknown(name)
        wanted = _find_earlier(versions, version)
        if wanted is None:
            missing = "earlier version" if version is None else f"version {version}"
            raise IllegalState(
                f"'{name}' has no {missing}.",
                code="version_not_found",
            )
        _check_models(session, owner, name, wanted.targets)
        _check_return_of_upstream(services, caller, versions, wanted)
        _check_number(session, owner, versions[0])
        alias = repository.add_version(session, owner, name, wanted.targets, caller.key_id)
        audit.record(session, caller, "alias.rolled_back", name)
        return AliasObject.of(alias)


def list_versions(
    services: Services, caller: Caller, name: str, *, everywhere: bool
) -> Page[AliasObject]:
    """Return the versions of a name, the newest first."""
    owner = _owner(caller, everywhere=everywhere)
    with services.database.read() as session:
        versions = repository.versions(session, owner, name)
    if not versions:
        raise _unknown(name)
    return Page[AliasObject].of([AliasObject.of(alias) for alias in versions])


def list_usage(services: Services, caller: Caller, name: str, days: int) -> Page[AliasUsage]:
    """Return the project's requests by day and model, the newest day first."""
    with services.database.read() as session:
        if repository.find_visible(session, caller.project_id, name) is None:
            raise _unknown(name)
        rows = repository.usage(session, caller.project_id, name, days)
    return Page[AliasUsage].of([_usage_of(row) for row in rows])


def sum_usage(services: Services, caller: Caller, days: int) -> dict[str, list[AliasSum]]:
    """Return the project's requests of the last days by name."""
    by_name: defaultdict[str, list[AliasSum]] = defaultdict(list)
    with services.database.read() as session:
        for row in repository.sum_usage(session, caller.project_id, days):
            by_name[row.name].append(row)
    return by_name


def seed(database: Database, aliases: Mapping[str, str]) -> None:
    """Add the names of the settings that this database has never had; later they change here."""
    with database.read() as session:
        new = {
            name: model
            for name, model in aliases.items()
            if repository.find(session, None, name) is None
        }
    if not new:
        return
    with database.transaction() as session:
        repository.lock(session, None)
        for name, model in new.items():
            if repository.find(session, None, name) is None:  # other processes start, too
                targets = AliasTargets(models=[AliasTarget(model=model)])
                repository.add_version(session, None, name, targets, None)


def find_targets(session: Session, project_id: str, name: str) -> AliasTargets | None:
    """Return the models that a project means by a name; None if it is no alias."""
    alias = repository.find_visible(session, project_id, name)
    return None if alias is None else alias.targets


def find_visible(session: Session, project_id: str, name: str) -> Alias | None:
    """Return what a project means by a name; None if it is no alias."""
    return repository.find_visible(session, project_id, name)


def resolve(session: Session, project_id: str, name: str) -> str:
    """Return the model of a name, which is itself unless it is an alias; of several models the one
    with the greatest weight.
    """
    targets = find_targets(session, project_id, name)
    return name if targets is None else targets.heaviest


def find_own(session: Session, project_id: str, name: str) -> Alias | None:
    """Return the version in force of a name that the project has itself."""
    alias = repository.find(session, project_id, name)
    return alias if alias is not None and alias.targets.models else None


def get_own(session: Session, project_id: str, name: str) -> Alias:
    """Return the version in force of a name that the project has itself. Raises `NotFound`."""
    alias = find_own(session, project_id, name)
    if alias is None:
        raise _unknown(name)
    return alias


def lock_own(session: Session, project_id: str, name: str) -> Alias | None:
    """Return the version in force of a project's own name, which stays in force until the
    transaction ends.
    """
    repository.lock(session, project_id)
    return repository.find(session, project_id, name)


def move(
    session: Session,
    alias: Alias,
    targets: AliasTargets,
    *,
    switch_id: str,
    key_id: str | None,
) -> Alias:
    """Let a locked name stand for others, in the course of a switch. Raises `InvalidRequest` where
    a model has been deleted.
    """
    _check_models(session, alias.project_id, alias.name, targets)
    return repository.add_version(session, alias.project_id, alias.name, targets, key_id, switch_id)


def counts_since(
    session: Session, project_id: str, name: str, day: date
) -> dict[str, RequestCount]:
    return repository.counts_since(session, project_id, name, day)


def stands_for(session: Session, project_id: str, model_id: str) -> bool:
    """Return True if a name that the project may use stands for a model."""
    return any(
        target.model == model_id
        for alias in repository.list_visible(session, project_id)
        for target in alias.targets.models
    )


def names_of(session: Session, model_id: str) -> list[Alias]:
    """Return the aliases, of any project, that stand for a model."""
    return [
        alias
        for alias in repository.list_in_force(session)
        if any(target.model == model_id for target in alias.targets.models)
    ]


def list_visible(session: Session, project_id: str) -> list[Alias]:
    return repository.list_visible(session, project_id)


def write_traffic(database: Database, traffic: Traffic) -> None:
    """Add the requests counted since the last call to the days' rows. Raises `SQLAlchemyError`
    while the database is unavailable; the counts stay.
    """
    counts = traffic.take()
    if not counts:
        return
    try:
        with database.transaction() as session:
            for key in sorted(counts):
                repository.add_usage(session, key, counts[key])
    except SQLAlchemyError:
        traffic.put_back(counts)
        raise


def _owner(caller: Caller, *, everywhere: bool) -> str | None:
    if everywhere:
        caller.must_administer_installation()
        return None
    return caller.project_id


def _find_earlier(versions: Sequence[Alias], version: int | None) -> Alias | None:
    """Return the wanted version of these, the newest first. A canary has no version to go back to:
    the rollback of a switch goes back to what was before it.
    """
    if version is not None:
        return next((alias for alias in versions if alias.version == version), None)
    newest, *others = versions
    switch_id = newest.switch_id
    earlier = (alias for alias in others if switch_id is None or alias.switch_id != switch_id)
    return next(earlier, None)


def _check_name(session: Session, project_id: str, name: str) -> None:
    if repository.visible_models(session, project_id, [name]):
        raise InvalidRequest(
            f"'{name}' is a model here, so it cannot stand for another.",
            param="name",
            code="alias_is_a_model",
        )


def _check_number(session: Session, owner: str | None, before: Alias | None) -> None:
    """Raise `IllegalState` if a name that stands for nothing now would be one too many."""
    is_new = before is None or not before.targets.models
    if is_new and repository.count(session, owner) >= MAX_ALIASES:
        raise IllegalState(
            f"There are {MAX_ALIASES} aliases here, which is the limit; delete one first.",
            code="too_many_aliases",
        )


def _check_upstream(
    services: Services, caller: Caller, before: Alias | None, targets: AliasTargets
) -> None:
    """Let nobody but the admin of the installation spend what the upstream's key pays for: others
    only change the shares of an upstream's model that a name has already.
    """
    if _adds_upstream(before, targets):
        caller.must_administer_installation()
        _must_have_upstream(services)


def _check_return_of_upstream(
    services: Services, caller: Caller, versions: Sequence[Alias], wanted: Alias
) -> None:
    """Let others than the admin of the installation bring an upstream's model back only by taking
    back a switch that is in force: a change of the admin's may have been made to end the costs.
    """
    newest = versions[0]
    is_of_switch = newest.switch_id is not None and wanted is _find_earlier(versions, None)
    if not is_of_switch and _adds_upstream(newest, wanted.targets):
        caller.must_administer_installation()
    if _adds_upstream(None, wanted.targets):
        _must_have_upstream(services)


def _adds_upstream(before: Alias | None, targets: AliasTargets) -> bool:
    """Return whether a name would stand for an upstream's model that it does not stand for yet."""
    old = set() if before is None else {target.model for target in before.targets.models}
    return any(is_upstream(each.model) and each.model not in old for each in targets.models)


def _must_have_upstream(services: Services) -> None:
    if not services.settings.upstream_url:
        raise InvalidRequest(
            "models: FALQON_UPSTREAM_URL names no server to send the questions to.",
            param="models",
            code="upstream_not_configured",
        )


def _check_models(session: Session, owner: str | None, name: str, targets: AliasTargets) -> None:
    ids = [target.model for target in targets.models if not is_upstream(target.model)]
    if name in ids:
        raise InvalidRequest(
            f"models: '{name}' cannot stand for itself.", param="models", code="alias_of_itself"
        )
    visible = repository.visible_models(session, owner, ids)
    for model_id in ids:
        if model_id not in visible:
            among = "base models" if owner is None else "models"
            raise InvalidRequest(
                f"models: there is no '{model_id}' among the {among} here; /v1/models lists them.",
                param="models",
                code="model_not_found",
            )


def _unknown(name: str) -> NotFound:
    return NotFound(f"No such alias: {name}", param="alias", code="alias_not_found")


def _usage_of(row: AliasDay) -> AliasUsage:
    usage = AliasSum(row.name, row.model_id, row.requests, row.errors, row.milliseconds)
    return AliasUsage(
        id=row.model_id,
        day=row.day,
        requests=row.requests,
        errors=row.errors,
        average_milliseconds=usage.average_milliseconds,
    )
