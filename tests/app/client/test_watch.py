import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.client.agents.jobs import list_jobs, watch_job
from app.client.api import Api, Json
from app.client.connection import Connection
from app.client.jobs import stream
from app.client.jobs.stream import Tick
from app.client.jobs.watched import Watched
from tests.app.client.conftest import Falqon, facts
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.terminal import CTRL_C, Terminal
from tests.support.waiting import wait_for

Submitted = Callable[..., str]


def terminal(service: Service, *arguments: str) -> Terminal:
    return Terminal(
        service.command(*arguments), service.environment | {"FALQON_DATA_DIR": str(service.folder)}
    )


def events_of(lines: str, job_id: str, service: Service) -> list[Any]:
    """The events of JSON lines, which must be all there are, each once and in order, with the job
    behind them.
    """
    *events, job = [json.loads(line) for line in lines.splitlines()]
    everything = list(service.client.fine_tuning.jobs.list_events(job_id, limit=100))
    assert [event["id"] for event in events] == [event.id for event in reversed(everything)]
    assert (job["object"], job["id"]) == ("fine_tuning.job", job_id)
    return events


def test_a_terminal_shows_bar_curve_eta_and_cost(service: Service, submitted: Submitted) -> None:
    job_id = submitted("--suffix", "seen", steps=60, step_seconds=0.05)
    screen = terminal(service, "jobs", "watch", job_id)
    assert screen.finish() == 0, screen.text
    numbers = ("step 60/60", "loss 0.0167", "valid loss 0.2500", "tok/s", "ETA", "< $0.01")
    for words in ("seen  ftjob-", "running", "━━━━", "█", "▁", *numbers):
        assert words in screen.text, screen.text
    assert "\x1b[" in screen.raw
    assert (
        screen.text.rstrip()
        .splitlines()[-1]
        .startswith("Download it with: falqon download ft:falqon-tiny:default:seen:")
    )


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    service: Service, submitted: Submitted, falqon: Falqon
) -> None:
    job_id = submitted(steps=100, step_seconds=0.1)
    screen = terminal(service, "jobs", "watch", job_id)
    screen.read_until("/100")  # whichever step it draws first
    screen.type(CTRL_C)
    assert screen.finish() == 130
    assert screen.text.rstrip().endswith(
        f"The job goes on. Come back with: falqon jobs watch {job_id}"
    )
    assert "Traceback" not in screen.text
    back = falqon("jobs", "watch", job_id)
    assert back.exit_code == 0, back.stderr
    assert "step 100/100" in back.stdout


def test_the_log_of_a_trainer_is_followed_to_the_end(falqon: Falqon, submitted: Submitted) -> None:
    job_id = submitted(steps=20)
    done = falqon("jobs", "logs", job_id, "--follow")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "20 steps, password=***\n"
    log = json.loads(falqon("jobs", "logs", job_id, "--attempt", "1", "--json").stdout)
    assert (log["attempt"], log["text"], log["bytes"]) == (1, done.stdout, len(done.stdout))


def test_a_log_gets_lines_without_colour(falqon: Falqon, submitted: Submitted) -> None:
    done = falqon("jobs", "watch", submitted(steps=200, step_seconds=0.001))
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout
    steps = [line for line in done.stdout.splitlines() if " loss " in line]
    assert 20 <= len(steps) <= 22
    assert "Training started" in done.stdout


def test_a_job_that_has_not_learned_does_not_end_like_one_that_has(
    falqon: Falqon, service: Service, submitted: Submitted
) -> None:
    job_id = submitted(steps=30, loss=2.0)
    done = falqon("jobs", "watch", job_id)
    assert done.exit_code == 0, "for programs it has succeeded"
    outcome = "succeeded, no better"
    assert f"{job_id} {outcome}" in done.stdout
    finding = "the training loss has not fallen by more than its noise in 30 steps"
    assert f"Health: {finding}: 2 at the beginning, 2 now; try a higher" in done.stdout
    assert finding in " ".join(falqon("jobs", "show", job_id).stdout.split())
    assert facts(falqon("jobs", "show", job_id).stdout)["status"] == outcome
    (listed,) = falqon("jobs", "list", "--limit", "1").stdout.splitlines()[1:2]
    assert outcome in listed
    compared = falqon("jobs", "compare", job_id, job_id).stdout
    assert f"status\t{outcome}\t{outcome}" in compared
    with closing(Api(Connection(f"{service.url}/v1", KEY))) as api:
        for_agents = list_jobs(api)["jobs"][0]
        assert watch_job(api, job_id, wait_seconds=0)["status"] == outcome
    assert (for_agents["job_id"], for_agents["status"]) == (job_id, outcome)
    job = json.loads(falqon("jobs", "show", job_id, "--json").stdout)
    ((code, is_failing),) = [(each["code"], each["is_failing"]) for each in job["health"]]
    assert (job["status"], code, is_failing) == ("succeeded", "not_learning", True)


def test_a_model_no_better_than_its_base_does_not_end_like_one_that_is(
    falqon: Falqon, submitted: Submitted
) -> None:
    job_id = submitted(steps=20, untouched_loss=0.2)
    done = falqon("jobs", "watch", job_id)
    assert done.exit_code == 0, "for programs it has succeeded"
    assert "Before training: validation loss=0.20" in done.stdout
    assert f"{job_id} succeeded, no better" in done.stdout
    finding = "held-out records: their loss was 0.2 before training and is 0.25 by"
    assert finding in done.stdout
    shown = " ".join(falqon("jobs", "show", job_id).stdout.split())
    assert "validation loss before training 0.2000 validation loss 0.2500" in shown


def test_a_checkpoint_is_told_of_behind_its_step() -> None:
    def event(step: int, kind: str) -> Json:
        return {"type": kind, "data": {"step": step}}

    happenings = [
        {"type": "message", "data": None},
        event(10, "message"),
        event(9, "metrics"),
        Tick(),
    ]
    happenings += [event(10, "metrics"), event(12, "message")]
    ordered = list(stream.in_order(iter(happenings)))
    assert ordered == [
        happenings[0],
        happenings[2],
        happenings[3],
        happenings[4],
        happenings[1],
        happenings[5],
    ]


def test_watch_calls_the_time_after_the_last_step_the_merge() -> None:
    watched = Watched({"id": "ftjob-1", "status": "running"})
    step = {"step": 4, "total_steps": 5, "train_loss": 1.0, "eta_seconds": 80.0}
    watched.take({"type": "metrics", "data": step})
    assert watched.numbers().endswith("  ETA 1 min 20 s")
    watched.take({"type": "metrics", "data": step | {"step": 5, "eta_seconds": 60.0}})
    assert "  merging, ETA " in watched.numbers()
    watched.take({"type": "metrics", "data": step | {"step": 5, "eta_seconds": 0.0}})
    assert watched.numbers().endswith("  merging"), "it takes longer than expected"


def test_steps_cost_the_same_however_many_came_before() -> None:
    watched = Watched({"id": "ftjob-1", "status": "running"})

    def take(steps: range) -> float:
        began = time.process_time()
        for step in steps:
            data = {"step": step, "total_steps": 60_000, "train_loss": 1 / step}
            watched.take({"type": "metrics", "data": data})
        return time.process_time() - began

    first = take(range(1, 2_001))
    take(range(2_001, 58_001))
    assert take(range(58_001, 60_001)) < 10 * first + 0.1


def test_create_can_watch_at_once(falqon: Falqon, fake_file: Callable[..., Path]) -> None:
    create = (
        "jobs",
        "create",
        "--model",
        "falqon-tiny",
        "--file",
        str(fake_file()),
        "--yes",
        "--watch",
    )
    assert "succeeded" in falqon(*create).stdout
    lines = [json.loads(line) for line in falqon(*create, "--json").stdout.splitlines()]
    assert [line["object"] for line in (lines[0], lines[1], lines[-1])] == [
        "fine_tuning.job",
        "fine_tuning.job.event",
        "fine_tuning.job",
    ]
    assert lines[-1]["status"] == "succeeded"


def test_watch_exits_as_the_job_ends(falqon: Falqon, submitted: Submitted) -> None:
    failed = falqon("jobs", "watch", submitted(user_error_at=3))
    assert failed.exit_code == 1
    assert "failed. The loss became infinite." in failed.stderr
    job_id = submitted(steps=5000, step_seconds=0.02)
    falqon("jobs", "cancel", job_id)
    cancelled = falqon("jobs", "watch", job_id)
    assert cancelled.exit_code == 1
    assert "was cancelled" in cancelled.stderr
    assert falqon("jobs", "watch", "ftjob-unknown").exit_code == 3


def test_cut_connections_lose_and_repeat_nothing(
    falqon: Falqon, service: Service, submitted: Submitted, proxy: Proxy
) -> None:
    job_id = submitted(steps=200, step_seconds=0.01)
    proxy.cut_after = 20_000
    done = falqon("jobs", "watch", job_id, "--json", "--base-url", proxy.url, "--api-key", KEY)
    assert done.exit_code == 0, done.stderr
    assert proxy.lost > 2
    events_of(done.stdout, job_id, service)
    cursors = [
        head.get("last-event-id")
        for head in proxy.heads(f"GET /v1/fine_tuning/jobs/{job_id}/stream")
    ]
    assert cursors[0] is None
    assert all(cursor is not None for cursor in cursors[1:])


def test_a_killed_api_is_waited_for(service: Service, submitted: Submitted, tmp_path: Path) -> None:
    job_id = submitted(steps=150, step_seconds=0.02)
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        environment = service.environment | {"FALQON_DATA_DIR": str(service.folder)}
        watching = subprocess.Popen(
            service.command("jobs", "watch", job_id, "--json"), env=environment, stdout=output
        )
    wait_for(lambda: printed.stat().st_size, what="the first event")
    log = (service.folder / "logs" / "api.log").read_text()
    (api,) = re.findall(r"Started server process \[(\d+)\]", log)
    os.kill(int(api), signal.SIGKILL)
    assert watching.wait(60) == 0
    assert len(events_of(printed.read_text(), job_id, service)) > 150
    wait_for(lambda: service.ready() == "ok", what="ready again")


def test_a_service_that_stays_away_ends_the_watch_but_not_the_job(
    falqon: Falqon,
    service: Service,
    submitted: Submitted,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "RECONNECT_TIMEOUT_SECONDS", 0.2)
    job_id = submitted(steps=5000, step_seconds=0.02)
    jobs = service.client.fine_tuning.jobs
    wait_for(lambda: jobs.retrieve(job_id).status == "running", what="the job runs")
    request = f"GET /v1/fine_tuning/jobs/{job_id}/stream"
    leaving = threading.Thread(
        target=lambda: wait_for(lambda: proxy.heads(request)) and proxy.close()
    )
    leaving.start()
    done = falqon("jobs", "watch", job_id, "--base-url", proxy.url, "--api-key", KEY)
    leaving.join()
    assert done.exit_code == 4
    assert f"The job itself goes on. Come back with: falqon jobs watch {job_id}" in done.stderr
    assert jobs.cancel(job_id).status == "running"
