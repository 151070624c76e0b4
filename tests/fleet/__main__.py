"""Play faults on a service of nine machines, print what held, and end with 1 where something did
not: `make fleet`. Root, and network namespaces, are needed. `python -m tests.fleet storm` plays
one alone.
"""

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fleet import scenarios
from tests.fleet.joined import joined_worker
from tests.fleet.network import Network, NoNetwork
from tests.fleet.service import APIS, WORKERS, FleetService
from tests.fleet.storm import storm
from tests.support.forks import ROOT
from tests.support.release import NoHistory, unpack_earlier_code
from tests.support.waiting import Late

Scenario = Callable[[FleetService, Path], str]
SCENARIOS: tuple[Scenario, ...] = (
    scenarios.rolling_upgrade,
    scenarios.cable,
    scenarios.store,
    storm,
    joined_worker,
    scenarios.ranks,
)


def main() -> int:
    names = sys.argv[1:]
    chosen = [each for each in SCENARIOS if each.__name__ in names] if names else SCENARIOS
    if not chosen:
        known = ", ".join(each.__name__ for each in SCENARIOS)
        sys.stderr.write(f"There is no scenario {' '.join(names)}; there are {known}\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="fq-fleet-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres is another user's
        try:
            with Network() as network, FleetService(folder, network) as service:
                return _play(service, folder / "earlier", chosen)
        except NoNetwork as error:
            sys.stderr.write(f"No fleet can be had here: {error}\n")
            return 2


def _play(service: FleetService, earlier: Path, chosen: Sequence[Scenario]) -> int:
    try:
        if scenarios.rolling_upgrade in chosen:
            unpack_earlier_code(earlier)
    except NoHistory as error:
        sys.stderr.write(f"Without an earlier version: {error}\n")
    code = earlier if earlier.exists() else ROOT
    service.migrate(code)
    for machine in (*APIS, *WORKERS):
        service.start(machine, code)
    rows = [_try(scenario, service, earlier) for scenario in chosen]
    sys.stdout.write("\n| scenario | | took | what came of it |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    return int(any(row[1] in ("FAILED", "LATE") for row in rows))


def _try(scenario: Scenario, service: FleetService, earlier: Path) -> tuple[str, str, str, str]:
    name = (scenario.__doc__ or scenario.__name__).rstrip(".")
    sys.stderr.write(f"{name} ...\n")
    since = time.monotonic()
    try:
        verdict, outcome = "passed", scenario(service, earlier)
    except scenarios.Skipped as error:
        verdict, outcome = "skipped", str(error)
    except (Late, subprocess.TimeoutExpired) as error:
        traceback.print_exc()
        verdict, outcome = "LATE", str(error)
    except Exception as error:  # the top-level handler: the others are still played
        traceback.print_exc()
        verdict, outcome = "FAILED", str(error).partition("\n")[0]
    minutes = (time.monotonic() - since) / 60
    load = f"{minutes:.0f} min, load {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores"
    return name, verdict, load, outcome


if __name__ == "__main__":
    sys.exit(main())
