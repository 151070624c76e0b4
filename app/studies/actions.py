"""What callers do with studies; each function is one unit of work, and notifies after its
commit.
"""

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.http.pagination import Page
from app.jobs import idempotency
from app.jobs import service as jobs
from app.models import Job, JobStatus, Study
from app.models.study_request import StudyRequest
from app.services import Services
from app.studies import service
from app.studies.schemas import ListedStudyObject, StudyObject
from falqon_core.estimate.comparison import ComparisonRow


def create_study(
    services: Services,
    caller: Caller,
    request: StudyRequest,
    *,
    idempotency_key: str | None = None,
    retry_count: int = 0,
) -> StudyObject:
    """Create a study with its jobs, or return the one that the same request has created before."""
    body = request.model_dump(mode="json", exclude_unset=True)
    submission = idempotency.Request(caller, "create study", body, idempotency_key, retry_count)
    with services.database.transaction() as session:
        study = service.create_once(session, submission, request, services.settings)
        created = _to_object(session, study)
    for job in created.jobs:
        if job.status == JobStatus.QUEUED:
            services.notifier.notify(Job, job.id)
    return created


def list_studies(
    services: Services, caller: Caller, *, after: str | None, limit: int
) -> Page[ListedStudyObject]:
    """List them, the newest first."""
    with services.database.read() as session:
        studies = service.page(session, caller.project_id, after=after, limit=limit)
        by_study = jobs.of_studies(session, caller.project_id, [study.id for study in studies])
        objects = [ListedStudyObject.of(study, by_study[study.id]) for study in studies]
    return Page[ListedStudyObject].of(objects, limit)


def retrieve_study(services: Services, caller: Caller, study_id: str) -> StudyObject:
    with services.database.read() as session:
        return _to_object(session, service.get(session, caller.project_id, study_id))


def cancel_study(services: Services, caller: Caller, study_id: str) -> StudyObject:
    """Cancel its jobs, each as a job is cancelled."""
    with services.database.transaction() as session:
        return _to_object(session, service.cancel(session, caller, study_id))


def read_table(services: Services, caller: Caller, study_id: str) -> list[ComparisonRow]:
    return retrieve_study(services, caller, study_id).table


def _to_object(session: Session, study: Study) -> StudyObject:
    of_study = jobs.of_studies(session, study.project_id, [study.id])[study.id]
    table = [compared.row for compared in service.compare(session, study.project_id, of_study)]
    return StudyObject.of(study, of_study).model_copy(update={"table": table})
