"""The table of jobs as an address says it: what it is filtered and sorted by, and its columns."""

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Query, Request

from app.base.errors import InvalidRequest
from app.jobs.listing import SORTS, JobQuery
from app.models import JobStatus

MAX_PAGE = 100_000
MAX_PAIRS = 16  # Pairs of one job at most.
MAX_FILTER_CHARACTERS = 600  # The name of a pair, its value, and their separator.
COLUMNS_COOKIE = "falqon_columns"  # the columns of the next visit
COOKIE_SECONDS = 365 * 86_400


@dataclass(frozen=True, slots=True)
class JobColumn:
    label: str
    kind: str = ""  # the class of its cells
    falls: bool = True  # Sorting begins with the largest.


COLUMNS = {
    "status": JobColumn("Status", falls=False),
    "progress": JobColumn("Progress"),
    "eta": JobColumn("Time left", "number", falls=False),
    "cost": JobColumn("Cost", "number"),
    "speed": JobColumn("Speed", "number"),
    "device": JobColumn("Device"),
    "loss": JobColumn("Training loss"),
    "valid_loss": JobColumn("Validation loss", "number", falls=False),
    "verdict": JobColumn("Against its base"),
    "created": JobColumn("Created"),
    "method": JobColumn("Method"),
    "rank": JobColumn("Rank", "number"),
    "learning_rate": JobColumn("Learning rate", "number"),
    "epochs": JobColumn("Epochs", "number"),
    "file": JobColumn("Training file"),
    "metadata": JobColumn("Metadata"),
    "id": JobColumn("Id"),
}
DEFAULT = tuple(COLUMNS)[: tuple(COLUMNS).index("created") + 1]


@dataclass(frozen=True, slots=True)
class TableQuery:
    jobs: JobQuery = field(default_factory=JobQuery)
    columns: tuple[str, ...] = DEFAULT

    def address(self, columns: tuple[str, ...] | None = None, **changed: Any) -> str:
        """Return the query of the same table with something else about it; turning to another order
        or filter begins at its first page.
        """
        new = replace(self.jobs, **({"page": 1} | changed))
        sort = f"{'-' if new.descending else ''}{new.sort}"
        columns = columns or self.columns
        pairs: list[tuple[str, Any]] = [
            ("q", new.search),
            ("status", new.status),
            ("model", new.model),
            ("since", new.since),
            ("until", new.until),
            *(("metadata", f"{name}={value}") for name, value in new.metadata),
            ("sort", sort if sort != "-created" else ""),
            ("columns", ",".join(columns) if columns != DEFAULT else ""),
            ("page", new.page if new.page != 1 else ""),
        ]
        return urlencode([(name, value) for name, value in pairs if value])

    def without_pair(self, pair: tuple[str, str]) -> str:
        return self.address(metadata=tuple(kept for kept in self.jobs.metadata if kept != pair))

    def with_pair(self, name: str, value: str) -> str:
        return self.address(metadata=tuple(dict.fromkeys([*self.jobs.metadata, (name, value)])))


Text = Annotated[str, Query(max_length=MAX_FILTER_CHARACTERS)]


def _query(
    q: Annotated[str, Query(max_length=256)] = "",
    status: str = "",
    model: Text = "",
    since: Text = "",
    until: Text = "",
    metadata: Annotated[list[Text] | None, Query(max_length=MAX_PAIRS)] = None,
    sort: str = "-created",
    columns: Text = "",
    number: Annotated[int, Query(ge=1, le=MAX_PAGE, alias="page")] = 1,
) -> TableQuery:
    if status and status not in list(JobStatus):
        raise InvalidRequest(
            f"status: no job is '{status}'; there are {', '.join(JobStatus)}.", param="status"
        )
    column = sort.removeprefix("-")
    if column not in SORTS:
        raise InvalidRequest(
            f"sort: jobs are not sorted by '{column}'; they are by {', '.join(SORTS)}.",
            param="sort",
        )
    jobs = JobQuery(
        q.strip(),
        JobStatus(status) if status else None,
        column,
        sort.startswith("-"),
        number,
        model.strip(),
        _day("since", since),
        _day("until", until),
        tuple(dict.fromkeys(_pair(text) for text in metadata or () if text.strip())),
    )
    return TableQuery(jobs, read_columns(columns.split(",")) if columns else DEFAULT)


TableQueryParams = Annotated[TableQuery, Depends(_query)]


def read_columns(names: list[str]) -> tuple[str, ...]:
    """Return the columns in the order of the table. Raises `InvalidRequest`."""
    for name in names:
        if name not in COLUMNS:
            raise InvalidRequest(
                f"columns: there is no column '{name}'; there are {', '.join(COLUMNS)}.",
                param="columns",
            )
    return tuple(name for name in COLUMNS if name in names)


def remembered_columns(request: Request) -> tuple[str, ...]:
    """Return the columns last chosen in this browser, without those that are no more."""
    names = request.cookies.get(COLUMNS_COOKIE, "").split(".")
    return tuple(name for name in COLUMNS if name in names) or DEFAULT


def _day(param: str, text: str) -> date | None:
    if not text.strip():
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"{param}: write a day as 2026-11-28, not '{text}'.", param=param
        ) from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"metadata: write name=value, not '{text}'.", param="metadata")
    return name.strip(), value.strip()
