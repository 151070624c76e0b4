"""The alerts of deploy/kubernetes/components/monitoring/alerts.yaml: what they ask for is exported,
they fire when they should and not before (`promtool`, on tests/deployment/alerts.yaml), and
docs/alerts.md says what to do about each.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from app.http.probes import NEEDED
from app.models import EngineState, JobStatus
from tests.deployment.exported import METRIC, base_of
from tests.deployment.kubernetes import FOLDER, ROOT, read

FILE = FOLDER / "components" / "monitoring" / "alerts.yaml"
TESTS = Path(__file__).with_name("alerts.yaml")
PAGE = (ROOT / "docs" / "alerts.md").read_text()
(OBJECT,) = read(FILE)
RULES: list[dict[str, Any]] = [
    rule for group in OBJECT["spec"]["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
KEPT = re.compile(r"(?:by|on) ?\(([^)]*)\)")
VALUES = {
    "status": {*JobStatus, "500", "502", "504"},
    "part": {*NEEDED, "redis"},
    "state": {*EngineState, "idle", "busy", "draining"},
    "num_devices": {"1"},
    "reason": {"project_full"},
}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_asks_for_what_is_exported(
    rule: dict[str, Any], exported: dict[str, set[str]]
) -> None:
    names = set(METRIC.findall(rule["expr"]))
    assert names
    labels = {"instance"}.union(*(exported[base_of(name)] for name in names))
    for group in KEPT.findall(rule["expr"]):
        assert {name for name in group.split(", ") if name} <= labels
    for label, values in re.findall(r'(\w+)(?:=~|!=|=)"([^"]+)"', rule["expr"]):
        assert label in labels
        assert set(values.split("|")) <= VALUES[label]
    text = rule["annotations"]["summary"]
    kept = {name for group in KEPT.findall(rule["expr"]) for name in group.split(", ")}
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept


def test_counters_are_exported_by_the_names_that_alerts_use() -> None:
    """A counter's sample ends with `_total`, a gauge's does not."""
    declared = dict(re.findall(r"^# TYPE (\S+) (\w+)$", generate_latest().decode(), re.M))
    for rule in RULES:
        for name in METRIC.findall(rule["expr"]):
            assert declared.get(name, "gauge") == (
                "counter" if name.endswith("_total") else "gauge"
            )


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_waits_and_says_how_bad_it_is(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_page_says_what_to_do_about_every_alert_and_no_other() -> None:
    assert re.findall(r"^\| `(Falqon\w+)` \|", PAGE, re.M) == NAMES
    assert len(set(NAMES)) == len(NAMES)


def test_every_alert_is_tested_both_ways() -> None:
    tests = [
        case
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    for name in NAMES:
        outcomes = {bool(case["exp_alerts"]) for case in tests if case["alertname"] == name}
        assert outcomes == {True, False}, name
    assert {case["alertname"] for case in tests} == set(NAMES)


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool on this machine (Debian: apt-get install promtool)",
)
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """The documented command makes the file that Prometheus reads."""
    (command,) = re.findall(r"^```sh\n(.*alerts\.yaml.*?)^```", PAGE, re.M | re.S)
    rules = tmp_path / "falqon.yaml"
    assert "/etc/prometheus/falqon.yaml" in command
    command = command.replace("/etc/prometheus/falqon.yaml", str(rules))
    subprocess.run(["bash", "-euc", command], cwd=ROOT, check=True)
    shutil.copy(TESTS, tmp_path)
    for arguments in (("check", "rules", rules), ("test", "rules", tmp_path / TESTS.name)):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
