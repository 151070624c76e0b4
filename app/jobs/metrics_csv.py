"""Metrics of a job as CSV: a line for each step, in pieces that are made while they are sent."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping

from app.base.database import Database
from app.jobs import repository
from app.jobs.effective_steps import effective_steps
from app.jobs.metrics import KEYS, SeriesByKey
from app.jobs.readings import number, step_of

EVENTS_AT_ONCE = 1000
ROWS_AT_ONCE = 1000

Row = Mapping[str, float]


def write_csv(keys: Collection[str], rows: Iterable[Row]) -> Iterator[bytes]:
    """Write rows of a step and of some of the keys; the others stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", *keys], lineterminator="\n")
    writer.writeheader()
    for count, row in enumerate(rows, 1):
        writer.writerow(row)
        if count % ROWS_AT_ONCE == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def write_series(series: SeriesByKey) -> Iterator[bytes]:
    """Write series that were thinned each by itself: most rows lack some keys."""
    rows: dict[int, dict[str, float]] = {}
    for key, points in series.items():
        for step, value in points:
            rows.setdefault(step, {"step": step})[key] = value
    return write_csv(series, (rows[step] for step in sorted(rows)))


def write_all(database: Database, job_id: str) -> Iterator[bytes]:
    """Write every step that counts, read in short transactions."""
    return write_csv(KEYS, _read_rows(database, job_id))


def _read_rows(database: Database, job_id: str) -> Iterator[Row]:
    """An evaluation comes after its step, sometimes in the next piece: the last row waits."""
    with database.read() as session:
        effective = effective_steps(session, [job_id])[job_id]
    seq = 0
    rows: list[dict[str, float]] = []
    while True:
        with database.read() as session:
            events = repository.events_after(session, job_id, after=seq, limit=EVENTS_AT_ONCE)
        for event in events:
            data = event.data or {}
            step = step_of(data)
            if event.type != "metrics" or step is None:
                continue
            if effective.include(event.attempt, step):
                if not rows or rows[-1]["step"] != step:
                    rows.append({"step": step})
                rows[-1] |= {
                    key: value for key in KEYS if (value := number(key, data.get(key))) is not None
                }
        if not events:
            yield from rows
            return
        yield from rows[:-1]
        rows = rows[-1:]
        seq = events[-1].seq
