"""The files of deploy/ other than the objects of Kubernetes, and the queries of its autoscalers, as
far as they can be tried without a cluster; see docs/scale.md.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from redis import Redis

from app.base.database import Database
from app.base.settings import Settings
from app.base.storage import Storage
from app.http.probes import HealthMonitor
from app.jobs import claims
from app.metrics.collector import InstallationCollector
from falqon_core.estimate.devices import DEVICES
from tests.deployment import kubernetes
from tests.deployment.test_kubernetes import SETTINGS
from tests.support.backend import Backend
from tests.support.metrics import samples
from tests.support.schema import migrate_database
from worker.entry.once import OnceExit

DEPLOY = Path(__file__).parents[2] / "deploy"
OBJECTS = kubernetes.written()
METRICS = re.compile(r"\bfalqon_[a-z_]+[a-z]\b")


def test_settings_are_known() -> None:
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert set(task["envs"]) <= SETTINGS


def test_the_spot_machine_has_a_card_that_workers_train_on() -> None:
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    card, _, number = task["resources"]["accelerators"].partition(":")
    assert card.lower() in DEVICES
    assert number == "1"
    assert task["run"].startswith("~/falqon/bin/falqon check || exit")


def test_queries_of_the_autoscaler_ask_for_what_is_exported() -> None:
    exported = METRICS.findall((DEPLOY.parent / "docs" / "metrics.md").read_text())
    scaled = [each for each in OBJECTS if each["kind"] in ("ScaledObject", "ScaledJob")]
    queries = [
        trigger["metadata"]["query"] for each in scaled for trigger in each["spec"]["triggers"]
    ]
    assert len(queries) == 2
    for query in queries:
        assert set(METRICS.findall(query)) <= set(exported)
    assert len(set(queries)) == 1
    for each in scaled:
        assert each["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    deployments = {each["metadata"]["name"] for each in OBJECTS if each["kind"] == "Deployment"}
    assert scaled[0]["spec"]["scaleTargetRef"]["name"] in deployments


def test_the_autoscaler_counts_the_jobs_of_one_gpu_that_its_workers_can_have(
    tmp_path: Path,
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'falqon.db'}")
    migrate_database(database)
    backend = Backend(tmp_path, database, str(database.engine.url))
    scaled = next(each for each in OBJECTS if each["kind"] == "ScaledJob")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    (device,) = set(re.findall(r"any\|([\w-]+)", query))
    assert device in DEVICES
    assert count_of(query, scrape(database, backend.settings)) == 0
    for name in (device, "h100"):
        backend.set(backend.add_job(), gpu=name)
        with database.transaction() as session:
            claims.claim(session, owner=name, device=name, num_devices=1, lease_seconds=60)
    for needs in ({"gpu": "any"}, {"gpu": device}, {"gpu": "h100"}, {"gpu": device, "num_gpus": 4}):
        backend.set(backend.add_job(), **needs)
    assert count_of(query, scrape(database, backend.settings)) == 1 + 2
    database.dispose()


def scrape(database: Database, settings: Settings) -> str:
    redis = Redis.from_url("redis://127.0.0.1:1/0")
    storage = Storage(settings.resolved_storage_url)
    monitor = HealthMonitor(database, storage, storage, redis)
    registry = CollectorRegistry()
    registry.register(InstallationCollector(database, settings, monitor))
    return generate_latest(registry).decode()


def count_of(query: str, text: str) -> float:
    """Add up what each selector of the query finds, as Prometheus would with one API."""
    selectors = re.findall(r"(falqon_\w+)\{(.*?)\}", query)
    assert len(selectors) == 2
    return sum(
        value
        for name, matchers in selectors
        for (exported, labels), value in samples(text).items()
        if exported == name and is_matching(matchers, dict(labels))
    )


def is_matching(matchers: str, labels: dict[str, str]) -> bool:
    return all(
        re.fullmatch(pattern if operator == "=~" else re.escape(pattern), labels[label])
        for label, operator, pattern in re.findall(r'(\w+)(=~|=)"(.*?)"', matchers)
    )


def test_scripts_are_shell() -> None:
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert set(task) == {"name", "resources", "num_nodes", "workdir", "envs", "setup", "run"}
    for script in ((DEPLOY / "worker.sbatch").read_text(), task["setup"], task["run"]):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("last", [OnceExit.NOTHING_QUEUED, OnceExit.WORKER_FAILED, 2, 143])
def test_the_spot_machine_works_until_nothing_is_queued_or_the_worker_fails(
    last: int, tmp_path: Path
) -> None:
    of_jobs = set(OnceExit) - {OnceExit.NOTHING_QUEUED, OnceExit.WORKER_FAILED}
    codes = tmp_path / "codes"
    codes.write_text("".join(f"{code}\n" for code in (*of_jobs, last)))
    falqon = tmp_path / "falqon" / "bin" / "falqon"
    falqon.parent.mkdir(parents=True)
    next_code = 'code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code"'
    falqon.write_text(f'#!/bin/sh\n[ "$1" = worker ] || exit 0\n{next_code}\n')
    falqon.chmod(0o755)
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    variables = os.environ | {"HOME": str(tmp_path), "CODES": str(codes)}
    done = subprocess.run(["bash", "-c", task["run"]], env=variables, check=False, timeout=30)
    assert done.returncode == (0 if last == OnceExit.NOTHING_QUEUED else last)
    assert not codes.read_text(), "each is asked for once"


def test_a_pod_of_one_job_fails_where_its_worker_fails_and_is_not_started_again() -> None:
    (scaled,) = [each for each in OBJECTS if each["kind"] == "ScaledJob"]
    described = scaled["spec"]["jobTargetRef"]
    assert described["backoffLimit"] == 0
    assert described["template"]["spec"]["restartPolicy"] == "Never"
    assert scaled["spec"]["rollout"] == {"strategy": "gradual"}
    assert "--exit-zero" in described["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("words", [(), ("ftjob-1",)], ids=["next", "given"])
@pytest.mark.parametrize("code", [*OnceExit, 2, 143])
def test_slurm_counts_what_continues_elsewhere_as_done(
    code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "falqon.env").write_text("DATABASE_URL=sqlite:///nowhere\n")
    srun = tmp_path / "srun"
    srun.write_text(
        f'#!/bin/sh\necho "$@" "$DATABASE_URL" >&2\nenv > "$SEEN"\nmkdir "$FALQON_DATA_DIR"\n'
        f"exit {code}\n"
    )
    srun.chmod(0o755)
    settings = {
        "FALQON_ENV": str(tmp_path / "falqon.env"),
        "SEEN": str(tmp_path / "seen"),
        "SLURM_JOB_ID": "7",
        "TMPDIR": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", DEPLOY / "worker.sbatch", *words],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    is_failure = code in (OnceExit.WORKER_FAILED, 2, 143)
    assert done.returncode == (code if is_failure else 0), done.stderr
    given = " --job ftjob-1" if words else ""
    line = f"falqon worker --queue gpu --once --wait 60{given} sqlite:///nowhere"
    assert line in done.stderr
    assert not (tmp_path / "falqon-7").exists()
    seen = re.findall(r"^FALQON_\w+", (tmp_path / "seen").read_text(), re.MULTILINE)
    assert set(seen) <= SETTINGS, "a worker refuses others"
