"""All metrics of a job as CSV: a line for each effective step. It is read in short transactions
during the download, a piece at a time.
"""

import csv
import io
from collections.abc import Iterator

from app.base.database import Database
from app.jobs import repository
from app.jobs.effective_steps import effective_steps
from app.jobs.metrics import KEYS
from app.jobs.readings import number, step_of

EVENTS_AT_ONCE = 1000

Row = dict[str, float]


def write_csv(database: Database, job_id: str) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", *KEYS], lineterminator="\n")
    writer.writeheader()
    for rows in _read_rows(database, job_id):
        writer.writerows(rows)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _read_rows(database: Database, job_id: str) -> Iterator[list[Row]]:
    """Read the rows. An evaluation comes after its step, sometimes in the next piece: the last row
    waits.
    """
    with database.read() as session:
        effective = effective_steps(session, [job_id])[job_id]
    seq = 0
    rows: list[Row] = []
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
            yield rows
            return
        yield rows[:-1]
        rows = rows[-1:]
        seq = events[-1].seq
