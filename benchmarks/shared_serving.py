"""Many fine-tunes of one base, each an adapter on it (shared) or a model of its own (merged).

    make shared-serving    (python -m benchmarks.shared_serving; about 15 minutes)

It starts `falqon up` with SQLite, trains one job of falqon-tiny and one of SmolLM2-135M, exports
its adapter and its merged model for llama.cpp, and adds copies of both as other models: adapters
with another B each, and merged models with other bytes each. Memory is the proportional set size of
the engines' processes: a page that several have mapped counts once. The first answer of a cold
fine-tune is the time to the first byte of its text, through the API. Rates are of 8 streams at
once, through the API and directly, shared and merged in turn. One process that holds all adapters,
and has each question say which one it wants, is measured beside them, asked directly.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.base.processes.parent_death import command_dying_with_parent
from app.base.processes.supervised_process import say
from app.catalogue.importer import TINY_MODEL_ID
from app.models import Engine, EngineState
from benchmarks import parser_of
from benchmarks.api.report import machine
from benchmarks.api.servers import ROOT
from benchmarks.inference.client import Door, Stream, ask
from benchmarks.inference.fine_tunes import FineTune, Tenant, resident_bytes
from benchmarks.serving import SMOLLM2, smollm2_weights
from tests.support.service import Service
from tests.support.waiting import wait_for
from worker.inference.llama_cpp import PARALLEL_ANSWERS

STREAMS = 8
CORES = 2
PROGRAM = "worker.inference.llama_cpp"
UNLOAD_SECONDS = 60.0
GAP_TOKENS = 1_000
CONTEXT = 2_048  # tokens of an answer of the one process
GOAL_ADAPTER_SHARE, GOAL_FIRST_SECONDS, GOAL_RATIO, GOAL_STORAGE = 0.05, 0.5, 0.85, 1 / 8
GOAL_GAP_SECONDS = 1.0
MIB = 2**20

PAGE = """# Many fine-tunes of one base

{machine}. Engines, API and client share the cores. Load averages while it measured: {loads}.

```
python -m benchmarks.shared_serving{options}
```

Times and rates count only where the load averages are low; memory, storage and loss do not depend
on them.

*Shared*: an adapter on the base in bf16, whose GGUF the engines of all its fine-tunes have mapped.
*Merged*: each fine-tune a GGUF of its own. One process of llama.cpp for each in both cases.

| goal | wanted | measured | holds |
|---|---:|---:|---|
{goals}

Memory of all that are loaded (proportional set size), and what one more takes:

| base | fine-tunes | shared | one more | merged | one more | file of the base | adapter |
|---|---:|---:|---:|---:|---:|---:|---:|
{memory}

The time to the first byte of the first answer, through the API; in brackets the longest:

| base | shared, base cold | shared, base loaded | merged |
|---|---:|---:|---:|
{first}

Tokens a second of {streams} streams at once, median of {rounds} rounds; in brackets the least and
the most of the ratios. *Direct*: asked at the engines themselves:

| base | shared, a fine-tune each | merged, one model | ratio | direct: shared | direct: merged |
|---|---:|---:|---:|---:|---:|
{rates}

What an adapter costs in answers, from the exports; and in storage:

| base | rows | loss | loss, merged | same greedy tokens | adapter | merged (FP8) | share |
|---|---:|---:|---:|---:|---:|---:|---:|
{bounds}

## A process for each adapter, or one for all

llama.cpp's server takes several adapters at its start, and a question says which it wants. Measured
with {streams} adapters, asked directly, {streams} streams at once:

| base | | memory | tokens a second | first tokens: the earliest | the latest |
|---|---|---:|---:|---:|---:|
{processes}

By llama.cpp's own description a question's `lora` names the scales for that question alone; this
was not tested here. Against it:
- The one process computes one adapter in a step. Streams of other adapters wait until those that
  came first have ended, as the latest first token shows; with a process each, all go on at once.
- It takes adapters at its start only: a new fine-tune waits for all streams to end, or ends them.
- What fails in one answer, or takes too much memory, ends those of every fine-tune.

So each fine-tune has a process of its own, which shares the pages of the base. What one more takes
is its adapter, the keys and values of {answers} answers of the model's longest context (720 MiB for
SmolLM2-135M, zeroed by llama.cpp while it loads; the one process here has {context:,} tokens an
answer), and 20 to 40 MiB of its own. A merged model takes the same beside its weights.

Threads of several processes meet on the same cores. They sleep at a barrier (`OMP_WAIT_POLICY`,
set by the engine): where they spin, as OpenMP's threads do by default, eight streams over eight of
falqon-tiny said 49 tokens a second on two cores, against 1,621.
"""


@dataclass(frozen=True, slots=True)
class Base:
    name: str
    model: str
    max_steps: int  # of the job
    num_tokens: int  # of each stream


@dataclass(frozen=True, slots=True)
class Memory:
    all_bytes: int
    one_more: float


@dataclass(frozen=True, slots=True)
class Round:
    shared: float
    merged: float
    direct_shared: float
    direct_merged: float

    @property
    def ratio(self) -> float:
        return self.shared / self.merged


@dataclass(frozen=True, slots=True)
class Layout:
    """Eight adapters in so many processes, and the answers to eight streams."""

    memory: int
    rate: float
    first_seconds: list[float]


@dataclass(frozen=True, slots=True)
class MeasuredBase:
    base: Base
    fine_tune: FineTune
    base_bytes: int
    adapter_file_bytes: int
    number: int
    shared: Memory
    merged: Memory
    first_shared: list[float]  # of the first one the base was cold
    first_merged: list[float]
    gap_seconds: float
    rounds: list[Round]
    several: Layout
    one: Layout
    load: str


TINY = Base("falqon-tiny", TINY_MODEL_ID, 60, 400)
SMOL = Base("SmolLM2-135M", SMOLLM2, 40, 48)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tiny", type=int, default=50, help="fine-tunes of falqon-tiny; 0: none")
    parser.add_argument("--smollm2", type=int, default=8, help="of SmolLM2-135M; 0: none")
    parser.add_argument("--steps", type=int, help="of each job; default: 60 and 40")
    parser.add_argument("--tokens", type=int, help="of each stream; default: 400 and 48")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shared_serving.md"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    where = machine()
    counts = (
        (_sized(TINY, arguments), arguments.tiny),
        (_sized(SMOL, arguments), arguments.smollm2),
    )
    measured = [_measure(base, number, arguments) for base, number in counts if number]
    text = _page(where, arguments, measured)
    print(text)
    arguments.output.write_text(text)


def _sized(base: Base, arguments: argparse.Namespace) -> Base:
    return replace(
        base,
        max_steps=arguments.steps or base.max_steps,
        num_tokens=arguments.tokens or base.num_tokens,
    )


def _measure(base: Base, number: int, arguments: argparse.Namespace) -> MeasuredBase:
    say(f"{number} of {base.name}")
    environment = {
        "FALQON_REQUESTS_PER_MINUTE": "1000000",
        "FALQON_ENGINE_IDLE": "PT1H",
        "OMP_NUM_THREADS": str(CORES),
    }
    with tempfile.TemporaryDirectory(prefix="fq-shared-") as folder:
        service = Service(Path(folder) / "data", environment, fake=False)
        with closing(service):
            service.wait_until_up()
            if base.model == SMOLLM2:
                weights = str(smollm2_weights())
                added = service.run("admin", "models", "add", SMOLLM2, "--source", weights)
                if added.returncode != 0:
                    raise SystemExit(added.stderr)
            with closing(Tenant(service, Path(folder))) as tenant:
                measured = _measure_base(base, number, tenant, arguments)
            service.stop()
    return measured


def _measure_base(
    base: Base, number: int, tenant: Tenant, arguments: argparse.Namespace
) -> MeasuredBase:
    fine_tune = tenant.fine_tune(base.model, base.max_steps)
    shared = tenant.add_shared(fine_tune, number)
    merged = tenant.add_merged(fine_tune, number)
    load = ", ".join(f"{item:.2f}" for item in os.getloadavg())
    say(f"trained and exported; load average {load}")
    first_shared, shared_memory = _load_all(tenant, shared)
    say(f"first answers: {first_shared[0]:.2f} s, then {statistics.median(first_shared[1:]):.2f} s")
    gguf = Path(_argument(_pids(tenant, shared)[0], PROGRAM))
    base_bytes = gguf.stat().st_size
    gap_seconds = asyncio.run(_gap(tenant, shared))
    for name in shared[STREAMS:]:
        _unload(tenant, name)
    streamed = shared[:STREAMS]
    rounds = asyncio.run(_rounds(tenant, base, streamed, merged[0], arguments.rounds))
    _unload(tenant, merged[0])
    several = _in_processes(tenant, base, streamed)
    one = _in_one_process(tenant, base, streamed, gguf)
    for name in streamed:
        _unload(tenant, name)
    first_merged, merged_memory = _load_all(tenant, merged)
    for name in merged:
        _unload(tenant, name)
    return MeasuredBase(
        base,
        fine_tune,
        base_bytes,
        fine_tune.adapter.stat().st_size,
        number,
        shared_memory,
        merged_memory,
        first_shared,
        first_merged,
        gap_seconds,
        rounds,
        several,
        one,
        load,
    )


def _load_all(tenant: Tenant, names: Sequence[str]) -> tuple[list[float], Memory]:
    """Ask each for the first time. Return the seconds until each answer began, and the memory."""
    first_seconds = [asyncio.run(ask(_api(tenant), names[0], 1)).first_seconds]
    one = resident_bytes(_pids(tenant, names))
    for name in names[1:]:
        first_seconds.append(asyncio.run(ask(_api(tenant), name, 1)).first_seconds)
    every = resident_bytes(_pids(tenant, names))
    return first_seconds, Memory(every, (every - one) / max(len(names) - 1, 1))


async def _gap(tenant: Tenant, names: Sequence[str]) -> float:
    """Return the longest time between two tokens of one fine-tune while another is loaded."""
    _unload(tenant, names[1])
    gaps: list[float] = []
    following = asyncio.create_task(_follow(_api(tenant), names[0], gaps))
    await ask(_api(tenant), names[1], 1)
    await asyncio.sleep(GOAL_GAP_SECONDS)
    following.cancel()
    return max(gaps)


async def _follow(door: Door, model: str, gaps: list[float]) -> None:
    """Add the seconds between two parts of one stream after the other."""
    while True:
        stream = await Stream.open(door, model, GAP_TOKENS)
        since = time.perf_counter()
        async for _ in stream.parts():
            now = time.perf_counter()
            gaps.append(now - since)
            since = now


async def _rounds(
    tenant: Tenant, base: Base, shared: Sequence[str], merged: str, rounds: int
) -> list[Round]:
    for name in (*shared, merged):
        await ask(_api(tenant), name, 8)
    measured = []
    api = _api(tenant)
    doors = {name: _door(tenant, name) for name in (*shared, merged)}
    several = [name for name, _ in zip(_cycle(shared), range(STREAMS), strict=False)]
    for _ in range(rounds):
        round_ = Round(
            await _rate([(api, name) for name in several], base),
            await _rate([(api, merged)] * STREAMS, base),
            await _rate([(doors[name], name) for name in several], base),
            await _rate([(doors[merged], merged)] * STREAMS, base),
        )
        say(f"{round_.shared:.0f} tokens/s shared, {round_.merged:.0f} merged")
        measured.append(round_)
    return measured


def _cycle(names: Sequence[str]) -> Iterator[str]:
    while True:
        yield from names


async def _rate(streams: Sequence[tuple[Door, str]], base: Base) -> float:
    return (await _answers(streams, base))[0]


async def _answers(streams: Sequence[tuple[Door, str]], base: Base) -> tuple[float, list[float]]:
    """Return the tokens a second of all streams, and the seconds until each began."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask(door, name, base.num_tokens) for door, name in streams))
    seconds = time.perf_counter() - started
    rate = sum(answer.num_tokens for answer in answers) / seconds
    return rate, [answer.first_seconds for answer in answers]


def _in_processes(tenant: Tenant, base: Base, names: Sequence[str]) -> Layout:
    answers = asyncio.run(_answers([(_door(tenant, name), name) for name in names], base))
    return Layout(resident_bytes(_pids(tenant, names)), *answers)


def _in_one_process(tenant: Tenant, base: Base, names: Sequence[str], gguf: Path) -> Layout:
    """Measure a process that has the adapters of all these engines."""
    adapters = [Path(_argument(pid, "--adapter")) for pid in _pids(tenant, names)]
    with _one_process(gguf, adapters) as (address, pid):
        streams = [(Door(address, "", adapter=index), "one") for index in range(len(adapters))]
        for door, name in streams:
            asyncio.run(ask(door, name, 1))
        answers = asyncio.run(_answers(streams, base))
        # The engines have the base's pages mapped, too, but all of them are this one's to need.
        return Layout(resident_bytes([pid], "Rss"), *answers)


@contextmanager
def _one_process(gguf: Path, adapters: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Yield the address and the id of a process that has all adapters."""
    program = [sys.executable, "-m", "benchmarks.inference.several_adapters", str(gguf)]
    options = [str(STREAMS), str(CORES), str(CONTEXT)]
    command = command_dying_with_parent([*program, *options, *map(str, adapters)])
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


def _api(tenant: Tenant) -> Door:
    return Door(tenant.service.url, tenant.service.key)


def _door(tenant: Tenant, name: str) -> Door:
    """Return where the engine of a loaded model is asked."""
    with tenant.database.read() as session:
        engine = session.get_one(Engine, (name, 0))
    assert engine.state == EngineState.READY
    return Door(engine.address or "", engine.token or "")


def _pids(tenant: Tenant, names: Sequence[str]) -> list[int]:
    """Return the engines of these models."""
    pids = tenant.service.pids(PROGRAM)
    return [pid for pid in pids if _argument(pid, "--name") in names]


def _argument(pid: int, option: str) -> str:
    """Return an option's value of a process."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index(option) + 1]


def _unload(tenant: Tenant, name: str) -> None:
    client = tenant.service.client
    client.delete(f"/engines/{name}", cast_to=object)

    def is_gone() -> bool:
        return not tenant.service.pids(PROGRAM, name)

    wait_for(is_gone, UNLOAD_SECONDS, f"{name} is unloaded")


def _page(where: str, arguments: argparse.Namespace, measured: Sequence[MeasuredBase]) -> str:
    return PAGE.format(
        machine=where,
        loads="; ".join(f"{item.load} ({item.base.name})" for item in measured),
        options=_options(arguments),
        streams=STREAMS,
        rounds=arguments.rounds,
        goals="\n".join(line for item in measured for line in _goals(item)),
        memory="\n".join(map(_memory_line, measured)),
        first="\n".join(map(_first_line, measured)),
        rates="\n".join(map(_rate_line, measured)),
        bounds="\n".join(map(_bound_line, measured)),
        processes="\n".join(map(_process_lines, measured)),
        answers=PARALLEL_ANSWERS,
        context=CONTEXT,
    )


def _options(arguments: argparse.Namespace) -> str:
    usual = {"tiny": 50, "smollm2": 8, "steps": None, "tokens": None, "rounds": 5}
    values = {name: getattr(arguments, name) for name in usual}
    return "".join(f" --{name} {value}" for name, value in values.items() if value != usual[name])


def _goals(item: MeasuredBase) -> Iterator[str]:
    most_bytes = item.base_bytes * (1 + GOAL_ADAPTER_SHARE * item.number)
    first = statistics.median(item.first_shared[1:])
    ratio = statistics.median(round_.ratio for round_ in item.rounds)
    share = item.fine_tune.adapter_bytes / item.fine_tune.merged_bytes
    found = item.shared.all_bytes
    goals = (
        (
            f"memory of {item.number}",
            f"≤ {most_bytes / MIB:.1f} MiB",
            f"{found / MIB:.0f} MiB",
            found <= most_bytes,
        ),
        (
            "first answer, base loaded",
            f"≤ {GOAL_FIRST_SECONDS:g} s",
            f"{first:.2f} s",
            first <= GOAL_FIRST_SECONDS,
        ),
        (
            f"{STREAMS} streams over {STREAMS} adapters, against one merged",
            f"≥ {GOAL_RATIO:g}",
            f"{ratio:.2f}",
            ratio >= GOAL_RATIO,
        ),
        (
            "storage of one, against merged",
            f"≤ {GOAL_STORAGE:.3f}",
            f"{share:.3f}",
            share <= GOAL_STORAGE,
        ),
        (
            "longest gap in a stream while another is loaded",
            f"≤ {GOAL_GAP_SECONDS:g} s",
            f"{item.gap_seconds:.2f} s",
            item.gap_seconds <= GOAL_GAP_SECONDS,
        ),
    )
    for name, goal, value, holds in goals:
        yield f"| {item.base.name}: {name} | {goal} | {value} | {'yes' if holds else '**no**'} |"


def _memory_line(item: MeasuredBase) -> str:
    values = (
        item.shared.all_bytes,
        item.shared.one_more,
        item.merged.all_bytes,
        item.merged.one_more,
        item.base_bytes,
        item.adapter_file_bytes,
    )
    cells = " | ".join(f"{value / MIB:,.1f} MiB" for value in values)
    return f"| {item.base.name} | {item.number} | {cells} |"


def _first_line(item: MeasuredBase) -> str:
    cold, *loaded = item.first_shared
    cells = [
        f"{statistics.median(values):.2f} s ({max(values):.2f})"
        for values in (loaded, item.first_merged)
    ]
    return f"| {item.base.name} | {cold:.2f} s | {' | '.join(cells)} |"


def _rate_line(item: MeasuredBase) -> str:
    ratios = [round_.ratio for round_ in item.rounds]
    columns = zip(
        *(
            (round_.shared, round_.merged, round_.direct_shared, round_.direct_merged)
            for round_ in item.rounds
        ),
        strict=True,
    )
    shared, merged, direct_shared, direct_merged = map(statistics.median, columns)
    return (
        f"| {item.base.name} | {shared:,.0f} | {merged:,.0f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {direct_shared:,.0f} | {direct_merged:,.0f} |"
    )


def _bound_line(item: MeasuredBase) -> str:
    tuned = item.fine_tune
    bound = tuned.bound
    share = tuned.adapter_bytes / tuned.merged_bytes
    rows = f"{bound['held_out']['num_rows']} ({bound['held_out']['source']})"
    return (
        f"| {item.base.name} | {rows} | {bound['loss']:.4f} | {bound['loss_fp8']:.4f} | "
        f"{bound['same_tokens']:.1%} | {tuned.adapter_bytes / MIB:.2f} MiB | "
        f"{tuned.merged_bytes / MIB:.2f} MiB | {share:.3f} |"
    )


def _process_lines(item: MeasuredBase) -> str:
    lines = []
    for name, layout in (("a process each", item.several), ("one process", item.one)):
        first = layout.first_seconds
        lines.append(
            f"| {item.base.name} | {name} | {layout.memory / MIB:,.0f} MiB | {layout.rate:,.0f} | "
            f"{min(first):.2f} s | {max(first):.2f} s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
