"""How far the estimate of the first job of a fresh installation is from what the job took.

    python -m benchmarks.first_estimate

Each size of job is the first one of an installation of its own in a temporary folder: `falqon up`,
until its worker has calibrated, then one job with falqon-tiny, or with the folder of a base model
that `--base` names. Minutes on a quiet machine, which nothing else may use; `--jobs 1` only tries
whether it works.
"""

import argparse
import json
import os
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.service import Service
from tests.support.waiting import wait_for

MODEL = "falqon-tiny"
BASE = "base"  # the name of a folder's model
EPOCHS = 3
CALIBRATED = "measured here"  # what an estimate says of its fixed times once they are
CALIBRATION_SECONDS = 400
CHECK_SECONDS = 120
JOB_SECONDS = 3600
LOOK_SECONDS = 2.0  # seldom, as looking takes time from what is measured


@dataclass(frozen=True, slots=True)
class Size:
    num_records: int
    num_words: int  # in each answer


@dataclass(frozen=True, slots=True)
class EstimateRow:
    size: Size
    steps: int
    estimate: float
    low: float
    high: float
    actual: float

    @property
    def error(self) -> float:
        return abs(self.estimate / self.actual - 1)


SIZES = (Size(40, 8), Size(400, 8), Size(2000, 8), Size(400, 150))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=len(SIZES), help="only so many sizes")
    parser.add_argument("--base", type=Path, help="folder of a base model; default: falqon-tiny")
    arguments = parser.parse_args()
    rows = []
    for size in SIZES[: arguments.jobs]:
        with tempfile.TemporaryDirectory(prefix="falqon-") as folder:
            rows.append(measure(Path(folder), size, arguments.base))
        print(f"{size}: {rows[-1].error:.1%}", flush=True)
    show(rows)


def measure(folder: Path, size: Size, base: Path | None) -> EstimateRow:
    environment = {"FALQON_CALIBRATE": "true", "OMP_NUM_THREADS": str(os.cpu_count())}
    with closing(Service(folder / "data", environment, fake=False)) as service:
        try:
            return run_first_job(service, size, base)
        finally:
            service.stop()


def run_first_job(service: Service, size: Size, base: Path | None) -> EstimateRow:
    service.wait_until_up()
    if base is not None:
        added = service.run("admin", "models", "add", BASE, "--source", str(base.resolve()))
        if added.returncode != 0:
            raise SystemExit(added.stderr)
    wait_for(
        lambda: is_calibrated(service),
        CALIBRATION_SECONDS,
        "the worker has calibrated",
        LOOK_SECONDS,
    )
    files = service.client.files
    file = files.create(file=("records.jsonl", records_of(size)), purpose="fine-tune")
    wait_for(
        lambda: files.retrieve(file.id).status == "processed", CHECK_SECONDS, "the file is checked"
    )
    job: Any = service.client.fine_tuning.jobs.create(
        model=BASE if base else MODEL, training_file=file.id, hyperparameters={"n_epochs": EPOCHS}
    )
    ended = wait_for(
        lambda: ended_job(service, job.id), JOB_SECONDS, "the job has ended", LOOK_SECONDS
    )
    if ended.status != "succeeded":
        raise SystemExit(f"the job is {ended.status}: {ended.error}")
    seconds = job.estimate["seconds"]
    return EstimateRow(
        size,
        job.estimate["steps"],
        seconds["expected"],
        seconds["low"],
        seconds["high"],
        ended.actual["seconds"],
    )


def is_calibrated(service: Service) -> bool:
    body = {"model": MODEL, "training_data": {"num_records": 100, "num_tokens": 10_000}}
    answer: Any = service.client.post("/fine_tuning/estimates", body=body, cast_to=object)
    return CALIBRATED in answer["explanation"]


def records_of(size: Size) -> bytes:
    def messages_of(number: int) -> list[dict[str, str]]:
        answer = " ".join(f"word{(number * 7 + index) % 97}" for index in range(size.num_words))
        return [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": answer},
        ]

    lines = (json.dumps({"messages": messages_of(number)}) for number in range(size.num_records))
    return "\n".join(lines).encode()


def ended_job(service: Service, job_id: str) -> Any:
    job = service.client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in ("succeeded", "failed", "cancelled") else None


def show(rows: list[EstimateRow]) -> None:
    print("\n| records | words | steps | estimate s | band s | actual s | estimate / actual |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.size.num_records} | {row.size.num_words} | {row.steps} | {row.estimate:.1f} "
            f"| {row.low:.1f} to {row.high:.1f} | {row.actual:.1f} "
            f"| {row.estimate / row.actual:.2f} |"
        )
    print(f"\nMedian of |estimate / actual - 1|: {median(row.error for row in rows):.1%}")


if __name__ == "__main__":
    main()
