"""A batch at an engine whose queue others fill."""

import asyncio
from collections.abc import Iterator

import pytest

from app.inference.service import EngineTarget
from app.models import Engine
from tests.support.local_server import QuietHandler, serving_by
from worker.batches import asking


class Metrics(QuietHandler):
    waiting: list[int] = []

    def do_GET(self) -> None:
        number = self.waiting.pop(0) if self.waiting else 0
        self.send(200, f"llamacpp:requests_deferred {number}\n".encode())


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    with serving_by(Metrics) as url:
        yield EngineTarget(url, "", Engine(model_id="m"), 4, "proj_a", True)


def test_nothing_is_sent_while_another_request_waits(
    target: EngineTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "BUSY_SECONDS", 0.0)
    Metrics.waiting = [2, 1, 0, 5]
    asyncio.run(asking._Calm().wait_for(target))
    assert Metrics.waiting == [5]
