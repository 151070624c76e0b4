"""`sbatch`, `squeue` and `scancel` for one node of four cards, as their man pages say: with
`--parsable` the id alone is printed, a name may occur twice, and a job that has ended is in no
list. A job begins once its cards are free, at the next `squeue`, and ends once the file that its
script waits for is there. The file `away` makes the controller silent.
"""

import argparse
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["SLURM_STAND_IN"])
CARDS = 4
ACCOUNTS = {"", "vision"}


def number_of(gpus: str) -> int:
    return int(gpus.rpartition(":")[2] or 0)


def fail(program: str, sentence: str) -> int:
    sys.stderr.write(f"{program}: error: {sentence}\n")
    return 1


def sbatch(jobs: list[dict[str, Any]], words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="sbatch")
    parser.add_argument("--parsable", action="store_true")
    for name in ("job-name", "nodes", "gpus", "account", "partition"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("script", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    kind, _, _ = given.gpus.rpartition(":")
    if given.account not in ACCOUNTS:
        reason = "Invalid account or account/partition combination specified"
        return fail("sbatch", f"Batch job submission failed: {reason}")
    if number_of(given.gpus) > CARDS or kind not in ("", "h100"):
        reason = "Requested node configuration is not available"
        return fail("sbatch", f"Batch job submission failed: {reason}")
    number = FOLDER / "next_id"
    job_id = int(number.read_text()) if number.exists() else 1
    number.write_text(str(job_id + 1))
    jobs.append(vars(given) | {"id": job_id, "state": "PENDING", "script": str(given.script)})
    sys.stdout.write(f"{job_id}\n" if given.parsable else f"Submitted batch job {job_id}\n")
    return 0


def squeue(jobs: list[dict[str, Any]], words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="squeue")
    for name in ("me", "noheader"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--format", required=True)
    given = parser.parse_args(words)
    assert given.me
    assert given.noheader
    jobs[:] = [job for job in jobs if not (FOLDER / f"release-{job['words'][0]}").exists()]
    for job in jobs:
        free = CARDS - sum(number_of(each["gpus"]) for each in jobs if each["state"] == "RUNNING")
        if job["state"] == "PENDING" and number_of(job["gpus"]) <= free:
            job["state"] = "RUNNING"
    for job in reversed(jobs):
        line = given.format.replace("%i", str(job["id"])).replace("%T", job["state"])
        sys.stdout.write(line.replace("%j", job["job_name"]) + "\n")
    return 0


def scancel(jobs: list[dict[str, Any]], words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scancel")
    parser.add_argument("--state", default="")
    parser.add_argument("id", type=int)
    given = parser.parse_args(words)
    jobs[:] = [
        job for job in jobs if job["id"] != given.id or given.state not in ("", job["state"])
    ]
    return 0


def main() -> int:
    program = Path(sys.argv[0]).name
    if (FOLDER / "away").exists():
        return fail(program, "Unable to contact slurm controller (connect failure)")
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = FOLDER / "jobs.json"
        jobs = json.loads(state.read_text()) if state.exists() else []
        done = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel}[program](jobs, sys.argv[1:])
        state.write_text(json.dumps(jobs))
    return done


if __name__ == "__main__":
    sys.exit(main())
