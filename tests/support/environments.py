"""Python environments with other releases of the official client, made once and kept in `.cache`,
where `make clean` finds them.

A range is resolved when its environment is made, so a machine that keeps its cache keeps the
release too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.backend import ROOT

CACHE = ROOT / ".cache" / "environments"
# The oldest release that can pause and resume a job, then the newest of each major version.
OPENAI = {
    "oldest": "openai==1.78.0",
    "newest-1": "openai>=1.78,<2",
    "newest-2": "openai>=2,<3",
    "newest-3": "openai>=3,<4",
}


def python_with(requirement: str) -> Path:
    """Return the interpreter of an environment that has this requirement and the packages of ours,
    but not ourselves.
    """
    name = re.sub("[^a-z0-9.]+", "-", requirement)
    folder = CACHE / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "bin" / "python").exists():
        _make(folder, requirement)
    return folder / "bin" / "python"


def _make(folder: Path, requirement: str) -> None:
    """Under a name of its own first: an installation that was interrupted, or that two are making
    at once, is never half there.
    """
    shutil.rmtree(folder, ignore_errors=True)  # its interpreter is gone
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        environment = Path(temporary) / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        (packages,) = environment.glob("lib/python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "ours.pth").write_text("\n".join(ours))  # pip installs only what differs
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--python",
            str(environment / "bin" / "python"),
        ]
        subprocess.run([*pip, "install", requirement], check=True)
        try:
            environment.rename(folder)
        except OSError:  # another one was quicker
            if not folder.exists():
                raise
