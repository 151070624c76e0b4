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
            "cost": _between(*(text.usd(cost[name]) for name in ("expected", "low", "high"))),
            "memory": f"{memory}, {fits} on {estimate['device']}" if fits else f"{memory} on {estimate['device']}",
            "place in the queue": place(estimate["queue"]) if estimate.get("queue") else "",
            "known from": estimate.get("explanation") or estimate["basis"],
        }
    )
    if estimate.get("reason"):
        client.out.console.print(Text(f"The service warns: {text.one_line(_words(estimate['reason']))}", "yellow"))


def _between(expected: str, low: str, high: str) -> str:
    return expected if expected == low == high else f"{expected} ({low} to {high})"


def place(queue: Json) -> str:
    """Where a job stands, and when its turn comes or why nobody knows."""
    return ", ".join(each for each in (f"{queue['position']}" if queue["position"] else "", _start(queue)) if each)


def _start(queue: Json) -> str:
    if queue["estimated_start"] is None:
        return f"start not known ({_words(queue['reason'])})"
    return f"starts about {text.moment(queue['estimated_start'])}" if queue["estimated_start"] > time.time() else "starts at once"


def _words(code: str) -> str:
    return code.replace("_", " ")
