"""Carry out the Dockerfile without Docker, in a clean Debian: `make image-check` (root; takes the
worker's 3 GB from the package index).

Each stage is a folder. RUN lines run there by chroot in namespaces of their own, with the stage's
environment, user and folder; COPY copies; then the commands of both images are tried. The clean
Debian comes by debootstrap from the mirror that this machine's apt has, with its Python 3.13 in
place of the image `python:3.13-slim`. What that leaves unknown is printed at the end.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.deployment.dockerfile import ROOT, Stage, our_stages

WORK = ROOT / ".cache" / "image-check"
RELEASE = "trixie"
PYTHON = "python3.13"
PACKAGES = (f"{PYTHON}-venv", f"{PYTHON}-dev", "ca-certificates")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/opt/python/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
INSIDE = """
set -e
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
exec chroot ${3:+--userspec="$3"} "$1" /bin/sh -c "cd $2 && $4"
"""
SMOKE = {
    "api": [
        "python -c 'import app.main'",
        "! python -c 'import torch' 2>/dev/null",
        "falqon --help >/dev/null",
        "test -d /srv/migrations -a -w /var/lib/falqon -a ! -w /srv",
    ],
    "worker": [
        "python -c 'import torch, transformers, worker.entry.tasks; print(torch.__version__)'",
        "python -m falqon_core --help >/dev/null",
        "cd /tmp && FALQON_ADMIN_KEY=0123456789abcdefghij FALQON_DATA_DIR=/tmp/data falqon migrate",
        "test -s /tmp/data/falqon.db -a -w /var/lib/falqon -a ! -w /srv",
    ],
}
LEFT_OUT = {"assets", "serving"}
UNKNOWN = """Not checked:
- Docker itself: its syntax, its caching of layers, and the sizes of the images.
- The images python:3.13-slim and node:22-slim: Debian's Python with its headers
  stood for the first, the stage `assets` was left out.
- The stage `serving`, which takes vLLM's 10 GB from the package index.
- VOLUME, EXPOSE, STOPSIGNAL, and what docker-compose.yml makes of the images.
- A GPU: Triton's part compiles and loads against a stand-in for the driver's library, and
  nothing was launched.
- A build with TORCH_INDEX, unless it is in this command's environment."""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def mirror() -> str:
    """Name the mirror that apt takes the release from on this machine."""
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"]
    pairs = (
        line.split()
        for line in subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    )
    for release, *site in pairs:
        if release == RELEASE and site:
            return site[0]
    raise SystemExit(f"image-check: apt has no source of Debian {RELEASE} on this machine.")


def make_debian(root: Path) -> None:
    """Lay a clean Debian with the Python that stands for the image's, and this machine's sources of
    packages.
    """
    site = mirror()
    subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            RELEASE,
            root,
            site,
        ],
        check=True,
        stdout=2,
    )
    (root / "etc/apt/sources.list").write_text(f"deb {site} {RELEASE} main\n")
    for file in (BUNDLE, Path("/etc/resolv.conf"), Path("/etc/hosts")):
        if file.exists():
            shutil.copy(file, root / file.relative_to("/"))
    run(root, f"{PYTHON} -m venv /opt/python", {}, "/", "")


def run(root: Path, command: str, environment: dict[str, str], folder: str, user: str) -> float:
    """Run one shell command inside and return its seconds; end the check where it fails."""
    say(f"  $ {command}")
    # How pip finds its index here, but not the files of this machine.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") and name != "PIP_FIND_LINKS"
    }
    inside = (
        inherited
        | {
            "PATH": PATH,
            "HOME": f"/home/{user}" if user else "/root",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        | environment
    )
    started = time.monotonic()
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*namespaces, "sh", "-c", INSIDE, "sh", str(root), folder, user, command],
        env=inside,
        stdout=2,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"image-check: exit {done.returncode} from: {command}")
    return time.monotonic() - started


class Builder:
    def __init__(self, debian: Path) -> None:
        self._debian = debian
        self._roots: dict[str, Path] = {}
        self._environments: dict[str, dict[str, str]] = {}

    def build(self, stage: Stage) -> None:
        root = WORK / stage.name
        base = self._roots.get(stage.base, self._debian)
        if stage.base == "scratch":
            root.mkdir()
        else:
            subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
        self._roots[stage.name] = root
        environment = self._environments.setdefault(
            stage.name, dict(self._environments.get(stage.base, {}))
        )
        folder, user = (
            "/srv" if stage.base in self._roots else "/",
            "",
        )  # WORKDIR is inherited, USER is set by no base of ours
        for instruction in stage.instructions:
            match instruction.word:
                case "ENV":
                    environment |= dict(
                        pair.split("=", 1) for pair in shlex.split(instruction.rest)
                    )
                case "ARG":
                    name, _, default = instruction.rest.partition("=")
                    environment[name] = os.environ.get(name, default)
                case "WORKDIR":
                    folder = instruction.rest
                    (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "USER":
                    user = instruction.rest
                case "COPY":
                    self._copy(root, folder, instruction.rest)
                case "RUN":
                    say(f"  {run(root, instruction.rest, environment, folder, user):.0f} s")
        for command in SMOKE.get(stage.name, []):
            run(root, command, environment, folder, user)
        (health,) = stage.arguments("HEALTHCHECK") or [""]
        if (
            "FALQON_ALIVE_FILE" in environment
        ):  # a worker that has not moved is ill, one that has is well
            check = health.partition(" CMD ")[2]
            run(root, f"! sh -c {shlex.quote(check)} 2>/dev/null", environment, folder, user)
            run(root, f'touch "$FALQON_ALIVE_FILE" && {check}', environment, folder, user)

    def _copy(self, root: Path, folder: str, rest: str) -> None:
        source = ROOT
        if rest.startswith("--from="):
            stage, _, rest = rest.removeprefix("--from=").partition(" ")
            if stage not in self._roots:
                say(f"  left out: COPY {stage}")
                return
            source = self._roots[stage]
        *names, target = rest.split()
        destination = root / os.path.join(folder, target).lstrip("/")
        destination.mkdir(parents=True, exist_ok=True)  # of ours, every target is a folder
        for name in names:
            path = source / name.lstrip("/")
            contents = f"{path}/." if path.is_dir() else path
            subprocess.run(
                ["cp", "-a", "--no-preserve=ownership", contents, destination], check=True
            )


def main() -> None:
    missing = [name for name in ("debootstrap", "unshare", "chroot") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        raise SystemExit(
            f"image-check: needs root{' and ' + ', '.join(missing) if missing else ''} "
            "(apt-get install debootstrap)."
        )
    started = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    try:
        make_debian(WORK / "debian")
        builder = Builder(WORK / "debian")
        for stage in our_stages():
            if stage.name in LEFT_OUT:
                continue
            say(f"{stage.name}, {time.monotonic() - started:.0f} s")
            builder.build(stage)
            size = subprocess.run(
                ["du", "-sm", WORK / stage.name], capture_output=True, text=True, check=True
            ).stdout.split()[0]
            say(f"  {size} MB")
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
    say(f"Both images' steps pass, in {time.monotonic() - started:.0f} s.\n{UNKNOWN}")


if __name__ == "__main__":
    sys.exit(main())
