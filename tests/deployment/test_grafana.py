"""The dashboard of deploy/grafana.json, and the page that names every metric."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from tests.deployment.exported import METRIC, base_of

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_asks_for_what_is_exported(exported: dict[str, set[str]], query: str) -> None:
    names = METRIC.findall(query)
    assert names
    labels = {"instance", "le"}
    for name in names:
        if name.startswith("process_"):
            assert name in generate_latest(REGISTRY).decode()
        else:
            labels |= exported[base_of(name)]
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert set(grouped.split(", ")) <= labels


def test_legends_name_labels_that_a_query_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            labels = {name for group in kept for name in group.split(", ")} or {"instance"}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_page_names_every_metric_and_no_other(exported: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    named = set(re.findall(r"`(falqon_[a-z_]+[a-z])`", page))
    assert {base_of(name) for name in named} == set(exported)
