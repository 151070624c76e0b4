"""Processes as their pods of deploy/kubernetes run them: they can write to the volumes alone, and
have no capability. Their user stays root, which without capabilities may do no more than the owner
of its files: a pod's user could not read the Python of every machine. `make image-check` runs the
commands as the image's user.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from sqlalchemy import make_url

from tests.deployment import kubernetes
from tests.support.api import jsonl
from tests.support.backend import FAKE_TRAINER, ROOT
from tests.support.postgres import PostgresServer
from tests.support.service import KEY, free_port
from tests.support.waiting import wait_for

# A shared folder holds the socket of Postgres, and stands for the bucket. Then every file system is
# made read-only, the volumes of the pod are mounted, and the capabilities of root are given up.
SCRIPT = """
set -eu
mount --bind "$SHARED" /mnt
for folder in $FOLDERS; do
  [ -d "$folder" ] || { mount -t tmpfs tmpfs "$(dirname "$folder")"; mkdir "$folder"; }
done
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r point; do
  case $point in
    /mnt | /proc | /proc/* | /sys | /sys/*) ;;
    *) mount -o remount,bind,ro "$point" 2>/dev/null || true ;;
  esac
done
for folder in $FOLDERS; do mount -t tmpfs tmpfs "$folder"; done
cd /
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
TOUCH = "import sys; open(sys.argv[1], 'w')"
FALQON = [sys.executable, "-m", "app.cli"]
WORKER = "falqon-worker-gpu"
START_SECONDS = 120


def folders_of(pod: str) -> list[str]:
    return sorted(mount["mountPath"] for mount in container_of(pod)["volumeMounts"])


def container_of(pod: str) -> kubernetes.Json:
    (found,) = [each for each in kubernetes.pods_of(kubernetes.written()) if each.name == pod]
    (container,) = found.containers
    return container


def find_obstacle() -> str:
    if os.geteuid() != 0:
        return "only root can make the file systems of a process read-only"
    if any(shutil.which(program) is None for program in ("unshare", "setpriv")):
        return "no unshare or no setpriv on this machine"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        return "this machine allows no namespaces"
    volumes = ("/tmp/", "/home/", "/var/lib/", "/mnt/")
    if any(f"{path}/".startswith(volumes) for path in (ROOT, sys.prefix, sys.base_prefix)):
        return "the checkout or its Python lies where a pod has its volumes"
    return ""


pytestmark = pytest.mark.skipif(find_obstacle() != "", reason=find_obstacle())


class Cluster:
    """Pods that share a folder."""

    def __init__(self, shared: Path, output: Path, database: str) -> None:
        self._shared = shared
        self.output = output
        config = kubernetes.named(kubernetes.written(), "ConfigMap", "falqon")["data"]
        settings = {name: value for name, value in config.items() if name.startswith("FALQON_")}
        for name in ("FALQON_METRICS_PORT", "FALQON_API_METRICS_PORT"):  # All pods are one machine.
            del settings[name]
        self._environment = settings | {
            "DATABASE_URL": f"postgresql://falqon@/{database}?host=/mnt/pg",
            "STORAGE_URL": "file:///mnt/objects",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "FALQON_ADMIN_KEY": KEY,
            "FALQON_SESSION_SECRET": "secret",
            "FALQON_CALIBRATE": "false",
            "FALQON_HEARTBEAT": "PT0.5S",
            "FALQON_POLL": "PT0.5S",
            "FALQON_TRAINER_COMMAND": json.dumps(FAKE_TRAINER),
            "HOME": "/home/falqon",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, pod: str, command: list[str]) -> subprocess.Popen[bytes]:
        variables = {"FOLDERS": " ".join(folders_of(pod)), "SHARED": str(self._shared)}
        namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]
        with self.output.open("ab") as log:
            return subprocess.Popen(
                [*namespace, *command],
                env=self._environment | variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, pod: str, command: list[str]) -> int:
        return self.start(pod, command).wait(START_SECONDS)


@pytest.fixture
def cluster(postgres: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    """Postgres is reached by its socket."""
    shared = postgres.folder.parent
    database = make_url(postgres.create_database("pods")).database
    assert database is not None
    yield Cluster(shared, tmp_path / "output", database)
    shutil.rmtree(shared / "objects", ignore_errors=True)


def test_nothing_can_be_written_but_the_volumes(cluster: Cluster) -> None:
    places = [f"{ROOT}/written", "/etc/written", "/usr/written", "/written"]
    for place in places:
        assert cluster.run(WORKER, [sys.executable, "-c", TOUCH, place]) == 1
    assert cluster.output.read_text().count("Read-only file system") == len(places)
    for folder in folders_of(WORKER):
        assert cluster.run(WORKER, [sys.executable, "-c", TOUCH, f"{folder}/written"]) == 0
    assert cluster.run(WORKER, ["chown", "1", "/tmp"]) == 1
    assert "Operation not permitted" in cluster.output.read_text()


def test_a_file_becomes_a_model_in_pods(cluster: Cluster) -> None:
    migrate = kubernetes.MIGRATION
    assert cluster.run(migrate, [*FALQON, "migrate"]) == 0, cluster.output.read_text()
    port = free_port()
    api = [*FALQON, "api", "--host", "127.0.0.1", "--port", str(port)]
    processes = [cluster.start("falqon-api", api)]
    for pod in ("falqon-worker-cpu", WORKER):
        _, *arguments = container_of(pod)["args"]
        processes.append(cluster.start(pod, [*FALQON, *arguments]))
    try:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=60) as client:
            file = client.files.create(file=("a.jsonl", jsonl(8)), purpose="fine-tune")
            client.files.wait_for_processing(file.id, poll_interval=0.5)
            job = client.fine_tuning.jobs.create(model="falqon-tiny", training_file=file.id)
            wait_for(
                lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"),
                START_SECONDS,
                "the job ends",
            )
            job = client.fine_tuning.jobs.retrieve(job.id)
            assert job.status == "succeeded", job.error
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(START_SECONDS) for process in processes]
    assert codes == [-signal.SIGTERM, 0, 0], "the API passes the signal on, as uvicorn does"
    assert "Read-only file system" not in cluster.output.read_text()
