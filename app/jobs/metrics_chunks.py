"""Chunks: the metrics of one attempt, within one window of a job's numbers, as one row that has a
column of values for each metric. Messages keep rows of their own, also where their numbers lie
between those of a chunk.
"""

from collections.abc import Sequence
from datetime import datetime

from app.jobs.readings import number, step_of
from app.models.base import JsonObject
from app.models.event import CHUNK, WINDOW, Event

OUTLINE_POINTS = 16
LOSS = "train_loss"
CURVE = ("step", LOSS)  # columns of an outline


def window_of(seq: int) -> int:
    return (seq - 1) // WINDOW


def pack(events: Sequence[Event]) -> Event:
    """Return one row for metrics of one attempt and one window, by rising number."""
    shapes: dict[tuple[str, ...], int] = {}
    shape = [shapes.setdefault(tuple(event.data or {}), len(shapes)) for event in events]
    keys = dict.fromkeys(key for names in shapes for key in names)
    data = {
        "seq": [event.seq for event in events],
        "created_at": [event.created_at.isoformat() for event in events],
        "message": [event.message for event in events],
        # An event has the keys of its columns, even if their values are null: others are not its
        # own.
        "shape": shape,
        "shapes": [list(names) for names in shapes],
        "values": {key: [(event.data or {}).get(key) for event in events] for key in keys},
    }
    last = events[-1]
    return Event(
        job_id=last.job_id,
        seq=last.seq,
        attempt=last.attempt,
        level="info",
        type=CHUNK,
        message="",
        data=data,
        created_at=last.created_at,
        first_seq=events[0].seq,
        outline=_outline(events),
    )


def unpack(row: Event) -> list[Event]:
    """Return the events of a chunk; for any other row the event itself."""
    if row.type != CHUNK:
        return [row]
    data = row.data or {}
    columns = zip(data["seq"], data["created_at"], data["message"], unpack_data(data), strict=True)
    return [
        Event(
            job_id=row.job_id,
            seq=seq,
            attempt=row.attempt,
            level=row.level,
            type="metrics",
            message=message,
            data=values,
            created_at=datetime.fromisoformat(created_at),
        )
        for seq, created_at, message, values in columns
    ]


def unpack_data(data: JsonObject) -> list[JsonObject]:
    """Return the metrics of each event of a chunk."""
    values = data["values"]
    columns = [[(key, values[key]) for key in keys] for keys in data["shapes"]]
    return [
        {key: column[place] for key, column in columns[shape]}
        for place, shape in enumerate(data["shape"])
    ]


def _outline(events: Sequence[Event]) -> JsonObject:
    points = [
        data
        for data in (event.data or {} for event in events)
        if step_of(data) is not None and number(LOSS, data.get(LOSS)) is not None
    ]
    last = len(points) - 1
    count = min(len(points), OUTLINE_POINTS)
    picked = sorted({place * last // max(1, count - 1) for place in range(count)})
    return {key: [points[place][key] for place in picked] for key in CURVE}
