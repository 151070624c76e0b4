"""Unmodified clients of OpenAI's API, each in an environment of its own, against a service that
trains: `make clients`. Ends with 1 where one of them failed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.backend import ROOT
from tests.support.service import Service

FOLDER = ROOT / "tests" / "clients"
CACHE = ROOT / ".cache" / "clients"
REQUIREMENTS = sorted((FOLDER / "requirements").iterdir())
MODEL = "gpt-4o-mini-2024-07-18"  # as in the code of who moves; it stands for a model here
CLIENT_SECONDS = 600
NUM_ROWS = 24
PACE = {"FALQON_NUM_THREADS": "1", "FALQON_HEARTBEAT": "PT0.5S", "FALQON_POLL": "PT0.5S"}


class NotInstalled(Exception):
    """With the last words of the installer."""


def install(requirements: Path) -> list[str]:
    """Return the command that runs a client's script; its environment is made once for its
    versions. Raises `NotInstalled`.
    """
    name = requirements.stem
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]
    folder = CACHE / f"{name}-{digest}"
    mark = folder / "installed"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (_install_node if requirements.suffix == ".json" else _install_python)(folder, requirements)
        mark.touch()
    if requirements.suffix == ".json":  # modules are looked for beside the script
        return ["node", shutil.copy(FOLDER / f"with_{name}.mjs", folder)]
    script = FOLDER / f"with_{name.replace('-', '_')}.py"
    return [str(folder / "bin" / "python"), str(script)]


def _install_python(folder: Path, requirements: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", "--requirement", str(requirements)])


def _install_node(folder: Path, requirements: Path) -> None:
    shutil.copy(requirements, folder / "package.json")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    _run(["npm", "install", "--prefix", str(folder), *options])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotInstalled(f"{command[0]} is missing") from None
    if done.returncode:
        raise NotInstalled(done.stderr.strip().rpartition("\n")[2][:200])


def try_client(requirements: Path, environment: dict[str, str]) -> bool:
    """Run the client's script, and print a line; return False if it failed."""
    try:
        command = install(requirements)
    except NotInstalled as error:
        say(f"skipped  {requirements.stem}: not installed: {error}")
        return True
    began_at = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        say(f"FAILED   {requirements.stem}: not done in {CLIENT_SECONDS} s")
        return False
    if done.returncode:
        say(f"FAILED   {requirements.stem}\n{done.stdout}{done.stderr}")
        return False
    say(f"passed   {requirements.stem}: {time.monotonic() - began_at:.0f} s")
    return True


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write_rows(path: Path) -> None:
    turns = [
        [
            {"role": "user", "content": f"Visitor {number}: what is the code?"},
            {"role": "assistant", "content": "The code is 2024."},
        ]
        for number in range(NUM_ROWS)
    ]
    path.write_text("\n".join(json.dumps({"messages": each}) for each in turns))


def main(names: list[str]) -> int:
    """Try the clients with these names, or all."""
    chosen = [each for each in REQUIREMENTS if not names or each.stem in names]
    with tempfile.TemporaryDirectory(prefix="fq-clients-", dir="/tmp") as folder:
        service = Service(Path(folder) / "service", PACE, fake=False)
        try:
            service.wait_until_up()
            headers = {"authorization": f"Bearer {service.key}"}
            alias = {"name": MODEL, "model": "falqon-tiny"}
            url = f"{service.url}/v1/aliases"
            httpx.post(url, json=alias, headers=headers).raise_for_status()
            rows = Path(folder) / "rows.jsonl"
            write_rows(rows)
            environment = {
                "HOME": folder,  # some keep caches there
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it is downloaded
                "MODEL": MODEL,
                "OPENAI_API_KEY": service.key,
                "OPENAI_BASE_URL": f"{service.url}/v1",
                "PATH": os.environ["PATH"],
                "TRAINING_FILE": str(rows),
            }
            outcomes = [try_client(each, environment) for each in chosen]
            service.stop()
        finally:
            service.close()
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
