"""What a job will take, shown before it is asked for."""

from rich.text import Text

from app.client import text
from app.client.api import Json
from app.client.command import Client


def show_estimate(client: Client, estimate: Json) -> None:
    seconds, cost = estimate["seconds"], estimate["cost"]
    fits = {True: "fits", False: "does not fit", None: ""}[estimate.get("fits")]
    memory = text.size(estimate["memory_bytes"])
    client.out.facts(
        {
            "tokens": f"{estimate['trained_tokens']:,}",
            "steps": f"{estimate['steps']:,}",
            "time": f"{text.duration(seconds['expected'])} ({text.duration(seconds['low'])} to {text.duration(seconds['high'])})",
            "cost": f"${cost['expected']} (${cost['low']} to ${cost['high']})",
            "memory": f"{memory}, {fits} on {estimate['device']}" if fits else f"{memory} on {estimate['device']}",
            "earliest start": _start(estimate),
            "known from": estimate.get("explanation") or estimate["basis"],
        }
    )
    if estimate.get("reason"):
        client.out.console.print(Text(f"The service warns: {text.one_line(estimate['reason'])}", "yellow"))


def _start(estimate: Json) -> str:
    start = estimate.get("earliest_start")
    return text.moment(start) if isinstance(start, int) else str(start or "")
