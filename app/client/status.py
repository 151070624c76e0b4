"""`falqon status`: whether the service is well, who works, what waits and what runs."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from app.client import text
from app.client.api import Json
from app.client.columns import Column
from app.client.command import Client

MAX_COUNTED = 100


def status(client: Client) -> None:
    """Show whether the service is ready, its workers, the queue and the jobs that run."""
    readiness = client.api.readiness()
    workers = client.api.get("/workers")
    waiting, running = (
        client.api.get("/fine_tuning/jobs", {"status": state, "limit": MAX_COUNTED})
        for state in ("queued", "running")
    )
    parts = {"readiness": readiness, "workers": workers, "queued": waiting, "running": running}
    client.out.show({"object": "status"} | parts, partial(_show, client, **parts))


def _show(client: Client, readiness: Json, workers: Json, queued: Json, running: Json) -> None:
    client.out.facts(
        {
            "service": f"{client.api.base_url}, {_health(readiness)}",
            "workers": _workers(workers["data"]),
            "jobs": f"{_count(running)} running, {_count(queued)} queued",
        }
    )
    if running["data"]:
        client.out.say("")
        heads = ("running", "done", "time left", "cost", Column("suffix", "shortened"), "model")
        client.out.table(heads, map(_row, running["data"]))


def _health(readiness: Json) -> str:
    failing = [
        f"{part}: {finding}" for part, finding in readiness["checks"].items() if finding != "ok"
    ]
    return "; ".join([readiness["status"], *failing])


def _workers(workers: list[Json]) -> str:
    if not workers:
        return "none has reported lately; jobs wait until one does"
    return "; ".join(_kinds(workers))


def _kinds(workers: list[Json]) -> Iterator[str]:
    busy = Counter(each["device"] for each in workers if each["status"] == "busy")
    for device, number in Counter(each["device"] for each in workers).items():
        yield f"{number} on {device}, {busy[device] or 'none'} busy"


def _count(page: Json) -> str:
    return f"{len(page['data'])}{' or more' if page['has_more'] else ''}"


def _row(job: Json) -> tuple[object, ...]:
    progress = job["progress"] or {}
    return (
        job["id"],
        text.done(job),
        _time_left(progress),
        text.cost_so_far(job),
        job["suffix"],
        job["model"],
    )


def _time_left(progress: Json) -> str:
    if 0 < progress.get("total_steps", 0) <= progress.get("step", 0):
        return "merging"
    eta = progress.get("eta_seconds")
    return "" if eta is None else text.duration(eta)
