"""Jobs of a table in blocks: those of a study are one that opens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.jobs import listing
from app.jobs.schemas import JobObject
from app.models import JobStatus

MIN_GROUPED = 2  # Jobs of a study on one page.


@dataclass(frozen=True, slots=True)
class JobRow:
    job: JobObject
    state: str
    is_live: bool
    is_pinned: bool
    loss: list[tuple[int, float]]
    file: str  # Name of the training file; empty once it has been deleted.


@dataclass(frozen=True, slots=True)
class StudyRow:
    """`by_status`: numbers of its jobs, of those on other pages too."""

    id: str
    name: str
    by_status: Mapping[JobStatus, int]

    @property
    def num_jobs(self) -> int:
        return sum(self.by_status.values())


@dataclass(frozen=True, slots=True)
class JobBlock:
    """`study`: None for jobs of no study, or of one with a single row here."""

    study: StudyRow | None
    rows: list[JobRow] = field(default_factory=list)


def group_by_study(
    session: Session, project_id: str, rows: Sequence[JobRow], names: Mapping[str, str]
) -> list[JobBlock]:
    """Put the jobs of a study together, where the first of them stands."""
    ids = [row.job.study_id for row in rows]
    grouped = {id_ for id_ in ids if id_ is not None and ids.count(id_) >= MIN_GROUPED}
    counts = listing.count_by_study(session, project_id, grouped)
    blocks: list[JobBlock] = []
    by_study: dict[str, JobBlock] = {}
    for row in rows:
        study_id = row.job.study_id
        if study_id not in names or study_id not in grouped:
            if not blocks or blocks[-1].study is not None:
                blocks.append(JobBlock(None))
            blocks[-1].rows.append(row)
            continue
        if study_id not in by_study:
            study = StudyRow(study_id, names[study_id], counts[study_id])
            by_study[study_id] = JobBlock(study)
            blocks.append(by_study[study_id])
        by_study[study_id].rows.append(row)
    return blocks
