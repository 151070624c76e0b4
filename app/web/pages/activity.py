from typing import Annotated

from fastapi import Query, Request, Response

from app.audit_logs import service
from app.files import service as files
from app.http.dependencies import After, ServicesDep
from app.jobs import service as jobs
from app.keys import service as keys
from app.projects import service as projects
from app.web.rendering import page
from app.web.visitor import AdminVisitor, PageRouter

PAGE_SIZE = 50
MAX_NAMES = 1000  # Names of keys and projects; others show their ids.
Filter = Annotated[str, Query(max_length=256)]

router = PageRouter()


@router.get("/activity")
def activity_page(
    services: ServicesDep,
    request: Request,
    caller: AdminVisitor,
    key: Filter = "",
    event: Filter = "",
    resource: Filter = "",
    after: After = None,
) -> Response:
    """Show who changed what, newest first."""
    its_keys = keys.list_keys(services, caller, limit=MAX_NAMES).data
    its_projects = projects.list_projects(services, caller, limit=MAX_NAMES).data
    logs = service.list_audit_logs(
        services,
        caller,
        actor_ids=[key] if key else [],
        event_types=[event.strip()] if event.strip() else [],
        resource_ids=[resource.strip()] if resource.strip() else [],
        after=after,
        limit=PAGE_SIZE,
    )
    ids = [log.resource_id for log in logs.data if log.resource_id]
    with services.database.read() as session:
        present_jobs = jobs.present(session, caller.project_id, ids)
        present_files = files.names(session, caller.project_id, ids)
    return page(
        request,
        "activity/page.html",
        caller,
        here="/usage",
        logs=logs,
        jobs=present_jobs,
        files=present_files,
        filters={"key": key, "event": event, "resource": resource},
        after=after,
        key_names={each.id: each.name for each in its_keys},
        project_names={each.id: each.name for each in its_projects},
    )
