"""The estimate of a job, shown before it is created."""

import time

from rich.text import Text

from app.base.terminal import one_line
from app.client import text
from app.client.api import Json
from app.client.command import Client


def show_estimate(client: Client, estimate: Json) -> None:
    seconds = estimate["seconds"]
    cost = estimate["cost"]
    fits = {True: "fits", False: "does not fit", None: ""}[estimate.get("fits")]
    memory = text.size(estimate["memory_bytes"]) + (f", {fits}" if fits else "")
    client.out.facts(
        {
            "records": _records(estimate),
            "tokens": f"{estimate['trained_tokens']:,}",
            "steps": f"{estimate['steps']:,}",
            "time": (
                f"{text.duration(seconds['expected'])} ({text.duration(seconds['low'])} to "
                f"{text.duration(seconds['high'])}){_overhead(estimate)}"
            ),
            "cost": _between(
                *(
                    text.usd_at(cost[name], cost.get("usd_per_device_hour"))
                    for name in ("expected", "low", "high")
                )
            ),
            "evaluation": _evaluation(estimate),
            "memory": f"{memory} on {estimate['device']}",
            "cheapest device": _of_several(estimate, "cheapest_device"),
            "fastest device": _of_several(estimate, "fastest_device"),
            "place in the queue": place(estimate["queue"]) if estimate.get("queue") else "",
            "learning rate": _rate(estimate),
            "known from": estimate.get("explanation") or estimate["basis"],
        }
    )
    warnings = [_words(estimate["reason"])] if estimate.get("reason") else []
    warnings += estimate.get("warnings") or []  # An older service sends none.
    for warning in warnings:
        client.out.console.print(Text(f"The service warns: {one_line(warning)}", "yellow"))
    if estimate.get("engine_note"):
        client.out.console.print(Text(one_line(estimate["engine_note"]), "yellow"))


def _records(estimate: Json) -> str:
    """Say how many train and how many check the model; an older service counts only the first."""
    num_checked = estimate.get("num_validation_records")
    checked = "" if num_checked is None else f", {num_checked:,} to check"
    return f"{estimate['num_records']:,} to train{checked}"


def _evaluation(estimate: Json) -> str:
    """Say what the evaluation after the training costs beside it; an older service knows none."""
    evaluation = estimate.get("evaluation")
    if not evaluation:
        return ""
    cost = text.usd_at(evaluation["cost"], estimate["cost"].get("usd_per_device_hour"))
    return f"{cost} more, {evaluation['num_rows']:,} rows against the base"


def _overhead(estimate: Json) -> str:
    """Say so where most of the time is no training."""
    overhead = estimate.get("overhead_seconds") or 0.0
    if overhead > estimate["seconds"]["expected"] / 2:
        return ", most of it start and export"
    return ""


def _rate(estimate: Json) -> str:
    """Return the learning rate; an older service sends none, and a range test has many."""
    rate, reason = estimate.get("learning_rate"), estimate.get("learning_rate_reason")
    if rate is None:
        return ""
    return f"{rate:.4g} ({reason})" if reason else f"{rate:.4g}"


def _of_several(estimate: Json, name: str) -> str:
    """Return the name of a device where there is a choice."""
    return (estimate.get(name) or "") if len(estimate.get("by_device") or []) > 1 else ""


def _between(expected: str, low: str, high: str) -> str:
    if expected == low == high:
        return expected
    return f"{expected} ({low} to {high})"


def place(queue: Json) -> str:
    """Describe a job's position in the queue, and its likely start or why it is unknown."""
    return ", ".join(
        each
        for each in (f"{queue['position']}" if queue["position"] else "", _start(queue))
        if each
    )


def _start(queue: Json) -> str:
    if queue["estimated_start"] is None:
        return f"start not known ({_words(queue['reason'])})"
    if queue["estimated_start"] > time.time():
        return f"starts about {text.moment(queue['estimated_start'])}"
    return "starts at once"


def _words(code: str) -> str:
    return code.replace("_", " ")
