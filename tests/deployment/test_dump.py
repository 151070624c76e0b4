"""The nightly dump of deploy/kubernetes, its script as the pod runs it, on a real Postgres."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.deployment import kubernetes
from tests.support.postgres import PostgresServer

DAY_SECONDS = 86_400
NAME = re.compile(r"falqon-\d{4}-\d\d-\d\dT\d{6}Z\.dump")


def run(folder: Path, postgres: PostgresServer, **variables: str) -> int:
    backup = kubernetes.FOLDER / "overlays" / "production" / "backup.yaml"
    (pod,) = kubernetes.pods_of(kubernetes.read(backup))
    (container,) = pod.containers
    (script,) = container["args"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/backup", "/tmp"} == mounts
    command = [*container["command"], script.replace("/backup", str(folder))]
    path = f"{postgres.programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, env={"PATH": path} | variables, check=False).returncode


def dumps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("direct", [False, True], ids=["plain", "beside-pgbouncer"])
def test_a_dump_is_whole_before_it_has_its_name(
    postgres: PostgresServer, tmp_path: Path, direct: bool
) -> None:
    url = postgres.create_database("dumped")
    variables = {"DATABASE_URL": url}
    if direct:
        variables = {"DATABASE_URL": f"{url}&pgbouncer=true", "DIRECT_DATABASE_URL": url}
    assert run(tmp_path, postgres, **variables) == 0
    (name,) = dumps(tmp_path)
    assert NAME.fullmatch(name)
    assert (tmp_path / name).stat().st_mode & 0o077 == 0
    postgres.run_tool("pg_restore", "--list", stdin=(tmp_path / name).read_bytes())


def test_a_dump_that_fails_takes_no_older_one_away(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    old = tmp_path / "falqon-2026-01-01T023000Z.dump"
    killed = tmp_path / "falqon-2026-01-02T023000Z.dump.part"
    for path in (old, killed):
        path.touch()
        os.utime(path, (time.time() - 30 * DAY_SECONDS,) * 2)
    url = postgres.create_database("dumped")
    gone = url.replace(str(postgres.folder), str(tmp_path))
    assert run(tmp_path, postgres, DATABASE_URL=gone) != 0
    assert not [name for name in dumps(tmp_path) if NAME.fullmatch(name) and name != old.name]
    assert old.exists()
    assert run(tmp_path, postgres, DATABASE_URL=url) == 0
    assert not old.exists(), "dumps are kept for 14 days"
    assert not killed.exists()
