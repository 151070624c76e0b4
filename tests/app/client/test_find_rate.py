import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from string import Template

from tests.app.client.conftest import Falqon, facts
from tests.support.backend import ROOT
from tests.support.fake_trainer import range_test

DOCUMENT = (ROOT / "docs" / "methods.md").read_text()


def test_find_rate_shows_estimate_curve_proposal_and_the_next_command(
    falqon: Falqon, fake_file: Callable[..., Path]
) -> None:
    (line,) = re.findall(r"^falqon (jobs find-rate .*)$", DOCUMENT, re.M)
    done = falqon(*shlex.split(Template(line).substitute(FILE=fake_file(steps=20))))
    assert done.exit_code == 0, done.stderr
    assert facts(done.stdout)["steps"] == "20"
    assert "1.0e-04 █▆▅▄▃▂▁▁▁▁▁▂ 5.6e-02  loss -0.500 at its lowest" in done.stdout
    assert "A learning rate of 0.005 is proposed." in done.stdout
    assert "falqon download" not in done.stdout
    next_command = done.stdout.rstrip().splitlines()[-1].removeprefix("Next: falqon ")
    job_id = next_command.split()[2]
    shown = falqon("jobs", "show", job_id).stdout
    assert facts(shown)["range test"] == range_test().message
    assert f"Next: falqon {next_command}" in shown

    trained = falqon(*next_command.split(), "--json")
    assert trained.exit_code == 0, trained.stderr
    job = json.loads(trained.stdout.splitlines()[-1])
    assert (job["status"], job["range_test"]) == ("succeeded", None)
    config = job["config"]
    assert (config["learning_rate"], config["rank"]) == (range_test().proposal, 4)
