"""What a job will take, shown before it is asked for."""

import time

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
            "earliest start": _start(estimate.get("queue") or {}),
            "known from": estimate.get("explanation") or estimate["basis"],
        }
    )
    if estimate.get("reason"):
        client.out.console.print(Text(f"The service warns: {text.one_line(estimate['reason'])}", "yellow"))


def _start(queue: Json) -> str:
    if queue.get("estimated_start") is None:
        return str(queue.get("reason") or "").replace("_", " ")
    return text.moment(queue["estimated_start"]) if queue["estimated_start"] > time.time() else "now"
