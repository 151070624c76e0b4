import os

import pytest

from worker.inference import progress
from worker.inference.engine_process import EngineEnded
from worker.inference.metrics import EngineMetrics
from worker.inference.progress import STALLED_CPU_SECONDS, ProgressWatch


@pytest.fixture
def metrics() -> EngineMetrics:
    metrics = EngineMetrics(os.getpid(), "http://127.0.0.1:1", "token")
    metrics.num_steps = 7.0
    return metrics


def test_a_step_begins_the_count_again(metrics: EngineMetrics) -> None:
    watch = ProgressWatch(metrics, 0)
    for num_steps in (7.0, 8.0, 8.0):
        metrics.num_steps = num_steps
        metrics.cpu_seconds += 0.7 * STALLED_CPU_SECONDS
        watch.check()
    metrics.cpu_seconds += 0.7 * STALLED_CPU_SECONDS
    with pytest.raises(EngineEnded, match="without a step"):
        watch.check()


def test_a_large_model_has_longer_steps(metrics: EngineMetrics) -> None:
    watch = ProgressWatch(metrics, 2**30)
    metrics.cpu_seconds += 5 * STALLED_CPU_SECONDS
    watch.check()


def test_an_engine_that_does_not_tell_its_steps_is_let_alone(metrics: EngineMetrics) -> None:
    metrics.num_steps = None
    watch = ProgressWatch(metrics, 0)
    metrics.cpu_seconds += 5 * STALLED_CPU_SECONDS
    watch.check()


def test_cpu_time_of_an_idle_engine_does_not_add_up(
    metrics: EngineMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STALLED_CPU_SECONDS", 0.0)
    watch = ProgressWatch(metrics, 0)
    watch.check()
    watch.check()
