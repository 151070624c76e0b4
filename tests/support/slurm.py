"""Slurm for tests: a controller and a node of four cards that are none, or a stand-in for them."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import Late, wait_for

SECONDS = 60.0
STAND_IN = Path(__file__).with_name("slurm_stand_in.py")
# Stands for a worker: it runs until the file of its job is there.
SCRIPT = """#!/bin/bash
#SBATCH --output=/dev/null
while [ -d "$RELEASES" ] && [ ! -e "$RELEASES/release-$1" ]; do sleep 0.1; done
"""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/slurm
CredType=cred/slurm
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MailProg=/bin/true
GresTypes=gpu
KillWait=60
SchedulerParameters=sched_interval=1,bf_interval=1,requeue_delay=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=512000 Gres=gpu:h100:4 State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
DEVICES = ("null", "zero", "full", "urandom")  # No process opens them as cards.


def missing_slurm() -> str | None:
    """Return why no real one can be started here."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    return f"no {missing[0]} (apt-get install slurmctld slurmd slurm-client)" if missing else None


class StandIn:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        source = STAND_IN.read_text()
        for name in ("sbatch", "squeue", "scancel"):
            program = programs / name
            program.write_text(f"#!{sys.executable}\n{source}")
            program.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_STAND_IN": str(folder),
        }

    def cut_off(self) -> None:
        (self.folder / "away").touch()

    def come_back(self) -> None:
        (self.folder / "away").unlink()


class Cluster:
    """A controller and a node, each a process of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        ports = [_free_port() for _ in range(2)]
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(
            host=host, folder=folder, controller_port=ports[0], node_port=ports[1]
        )
        (folder / "slurm.conf").write_text(text)
        cards = "".join(f"Name=gpu Type=h100 File=/dev/{name}\n" for name in DEVICES)
        (folder / "gres.conf").write_text(cards)
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        key = folder / "slurm.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._processes = [self._start("slurmctld"), self._start("slurmd", "-N", host)]
        try:
            wait_for(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), SECONDS, "an idle node")
        except BaseException:
            self.close()
            raise

    def _start(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        command = [program, "-D", "-f", str(self.folder / "slurm.conf"), *words]
        with (self.folder / f"{program}.out").open("ab") as output:
            return subprocess.Popen(
                command, env=os.environ | self.environment, stdout=output, stderr=output
            )

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        return done.stdout

    def cut_off(self) -> None:
        """Stop the controller, which stores its state: a killed one forgets the last seconds."""
        self._processes[0].terminate()
        self._processes[0].wait(SECONDS)

    def come_back(self) -> None:
        self._processes[0] = self._start("slurmctld")

    def close(self) -> None:
        self.ask("scancel", "--me")
        with suppress(Late):  # A step that has just begun may take a minute to end.
            wait_for(lambda: not self.ask("squeue", "--me", "--noheader"), SECONDS)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:  # It waits for the end of a step.
                process.kill()
                process.wait(SECONDS)


def rows_of(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (id, state, name) of each job, oldest first."""
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i %T %j"],
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    rows = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return sorted(((row[0], row[1], row[2]) for row in rows), key=lambda row: int(row[0]))


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
