"""What a browser loads for a page that it sees for the first time."""

import random
import re
from urllib.parse import urljoin

import httpx

from app.jobs.events import NewEvent
from app.models import JobStatus
from tests.browser import scene
from tests.support.api import Tenant

NUM_STEPS = 3000
LIMIT = 200_000
LOADED = re.compile(r'<(?:link rel="stylesheet" href|script src)="([^"]+)"')
IMPORTED = re.compile(r'^import (?:.* from )?"([^"]+)"', re.MULTILINE)


def bytes_of(answer: httpx.Response) -> int:
    """Head and body, as they came over the wire."""
    head = sum(len(name) + len(value) + len(b": \r\n") for name, value in answer.headers.raw)
    return head + answer.num_bytes_downloaded


def load(browser: httpx.Client, path: str) -> dict[str, int]:
    """Return the bytes of a page and of all that it loads by itself, by their addresses."""
    weights: dict[str, int] = {}
    waiting = [path]
    while waiting:
        url = waiting.pop()
        if url in weights:
            continue
        answer = browser.get(url)
        assert answer.status_code == 200, url
        weights[url] = bytes_of(answer)
        if url == path:
            waiting += LOADED.findall(answer.text)
            waiting += re.findall(r'"url": ?"([^"]+)"', answer.text.replace("&#34;", '"'))
        elif url.endswith(".js"):
            waiting += [urljoin(url, name) for name in IMPORTED.findall(answer.text)]
    return weights


def long_job(tenant: Tenant) -> str:
    """A job whose every step has a value of its own for everything that a trainer measures."""
    claim = scene.job(tenant, tenant.upload(), "long", 0)
    chance = random.Random(7)
    noisy = ("train_loss", "train_mean_token_accuracy", "grad_norm", "tokens_per_second",
             "codes_changed", "memory_bytes", "cpu_utilization", "gpu_utilization",
             "gpu_temperature", "mfu", "eta_seconds", "epoch")  # fmt: skip
    events: list[NewEvent] = []
    for step in range(1, NUM_STEPS + 1):
        data = scene.metrics(step, 0.0) | {key: chance.random() for key in noisy}
        data["elapsed_seconds"] = 0.6 * step + chance.random() / 2
        events.append(NewEvent("", type="metrics", data=data))
        if step % 100 == 0:
            data = {"step": step, "valid_loss": chance.random()}
            events += [NewEvent("", type="metrics", data=data), scene.sampled(step, "It is four.")]
    scene.write(tenant, claim, events, scene.progress(NUM_STEPS))
    scene.finish(tenant, claim, JobStatus.SUCCEEDED)
    return claim.job_id


def test_a_long_job_is_light_at_its_first_visit(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = long_job(tenant)
    weights = load(browser, f"/jobs/{job_id}")
    assert f"/jobs/{job_id}/metrics" in weights
    assert any("uPlot" in url for url in weights)
    assert sum(weights.values()) <= LIMIT, weights
