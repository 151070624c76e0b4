"""What was measured, as a page that says how, where, and which goals hold."""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.api.load import LoadResult
from benchmarks.api.readers import Delivery

GOAL_SUBMISSIONS_PER_SECOND = 50
GOAL_DELIVERY_MS = 1000.0
GOAL_READER_KIB = 60.0


PAGE = """# Load on the API

{machine}, Postgres {postgres} with fsync. {jobs:,} jobs in the table.
Postgres, Valkey, the API (one process) and the load generator share the cores. *Bare* is a FastAPI
and SQLAlchemy endpoint without any of the service around it, on the same database in the same run
(`benchmarks/api/bare.py`).

```
python -m benchmarks.api_load
```

| goal | wanted | found | holds |
|---|---:|---:|---|
{goals}

At {rate:g} requests a second, arriving at random; then as many as 8 connections get. CPU is that of
the API's process for one request, without Postgres; it depends least on what else the machine does.

| request | p50 | p99 | bare | bare p99 | ratio | a second | bare | ratio | CPU | bare | ratio |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{requests}

The load generator took {share} of a core while the service was given all that it takes,
{bare_share} with bare.

{readers:,} readers of streams on one process, on 20 jobs; bare tells from its process's memory.

| | ours | bare | ratio |
|---|---:|---:|---:|
{streams}
"""


@dataclass(frozen=True, slots=True)
class MeasuredRequest:
    name: str
    ours: LoadResult
    bare: LoadResult
    goal_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    goal: str
    measured_value: str
    holds: bool


def machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    load = ", ".join(f"{item:.2f}" for item in os.getloadavg())
    model = models[0] if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores ({model}), Python {sys.version.split()[0]}, load average before the run "
        f"{load}"
    )


def markdown(
    arguments: argparse.Namespace,
    machine: str,
    postgres: str,
    measured: list[MeasuredRequest],
    ours: Delivery,
    bare: Delivery,
) -> str:
    return PAGE.format(
        machine=machine,
        postgres=postgres,
        jobs=arguments.jobs,
        rate=arguments.rate,
        readers=arguments.readers,
        goals="\n".join(map(_goal_line, _goals(arguments, measured, ours))),
        requests="\n".join(map(_line, measured)),
        share=_range([item.ours.generator_share for item in measured]),
        bare_share=_range([item.bare.generator_share for item in measured]),
        streams="\n".join(_stream_lines(ours, bare)),
    )


def _goal_line(goal: Goal) -> str:
    holds = "yes" if goal.holds else "**no**"
    return f"| {goal.name} | {goal.goal} | {goal.measured_value} | {holds} |"


def _goals(
    arguments: argparse.Namespace, measured: list[MeasuredRequest], ours: Delivery
) -> list[Goal]:
    created = measured[0].ours
    rate = Goal(
        "submissions",
        f"{GOAL_SUBMISSIONS_PER_SECOND}/s",
        f"{created.most_per_second:.0f}/s",
        created.most_per_second >= GOAL_SUBMISSIONS_PER_SECOND,
    )
    latencies = [
        _at_most(
            f"{item.name}, p99 at {arguments.rate:g}/s",
            item.goal_p99_ms,
            item.ours.at_rate.p99 * 1000,
            "ms",
        )
        for item in measured
        if item.goal_p99_ms is not None
    ]
    return [
        rate,
        *latencies,
        _at_most(
            "delivery to a stream, p99",
            GOAL_DELIVERY_MS,
            max(ours.steady.p99, ours.burst.p99) * 1000,
            "ms",
        ),
        _at_most("memory of a reader", GOAL_READER_KIB, ours.bytes_per_reader / 1024, "KiB"),
        _at_most("events that a reader missed", 0, ours.missing, ""),
    ]


def _at_most(name: str, goal: float, measured_value: float, unit: str) -> Goal:
    return Goal(
        name,
        f"≤ {goal:g} {unit}".strip(),
        f"{measured_value:.0f} {unit}".strip(),
        measured_value <= goal,
    )


def _line(item: MeasuredRequest) -> str:
    ours = item.ours.at_rate
    bare = item.bare.at_rate
    milliseconds = " | ".join(f"{seconds * 1000:.1f} ms" for seconds in (*ours, *bare))
    most = item.ours.most_per_second
    bare_most = item.bare.most_per_second
    cpu = item.ours.cpu_seconds * 1000
    bare_cpu = item.bare.cpu_seconds * 1000
    latency = f"{milliseconds} | {ours.p50 / bare.p50:.1f}"
    rates = f"{most:.0f} | {bare_most:.0f} | {most / bare_most:.2f}"
    return (
        f"| {item.name} | {latency} | {rates} | {cpu:.1f} ms | {bare_cpu:.1f} ms | "
        f"{cpu / bare_cpu:.1f} |"
    )


def _stream_lines(ours: Delivery, bare: Delivery) -> list[str]:
    rows: tuple[tuple[str, Callable[[Delivery], float], str], ...] = (
        ("delivery p50, an event a second on each job", lambda d: d.steady.p50 * 1000, "ms"),
        ("delivery p99", lambda d: d.steady.p99 * 1000, "ms"),
        ("delivery p50, an event on all jobs at once", lambda d: d.burst.p50 * 1000, "ms"),
        ("delivery p99", lambda d: d.burst.p99 * 1000, "ms"),
        ("memory of a reader", lambda d: d.bytes_per_reader / 1024, "KiB"),
        ("the server's share of a core, readers quiet", lambda d: d.quiet_share * 100, "%"),
        ("the same, an event a second on each job", lambda d: d.steady_share * 100, "%"),
        ("the load generator's share meanwhile", lambda d: d.generator_share * 100, "%"),
        ("retrieving a job meanwhile, p99", lambda d: d.retrieve.p99 * 1000, "ms"),
        ("deliveries missing", lambda d: d.missing, ""),
    )
    lines = []
    for name, figure, unit in rows:
        mine, other = figure(ours), figure(bare)
        ratio = f"{mine / other:.1f}" if other > 0 else ""
        lines.append(f"| {name} | {mine:.0f} {unit} | {other:.0f} {unit} | {ratio} |")
    return lines


def _range(shares: list[float]) -> str:
    return f"{min(shares) * 100:.0f}-{max(shares) * 100:.0f} %"
