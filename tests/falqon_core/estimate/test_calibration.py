import pytest

from falqon_core.contract.config import Recipe
from falqon_core.estimate.calibration import Calibration, Timeline
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.estimate import Estimate, estimate
from tests.falqon_core.estimate.test_estimate import TINY

MEASURED = Calibration(start_seconds=4.0, step_seconds=0.2, export_seconds=6.0)


def of(calibration: Calibration | None) -> Estimate:
    return estimate(
        TINY,
        Recipe(num_epochs=1, batch_size=4).resolved(400),
        num_records=400,
        tokens_per_epoch=10_000,
        device=DEVICES["cpu"],
        num_devices=2,
        calibration=calibration,
    )


def test_a_timeline_tells_start_steps_and_export() -> None:
    steps = [0.5, 2.5, 4.0, 4.25, 4.5, 4.75, 5.0]  # four of 0.25 s after two slow ones
    timeline = Timeline(first=4.0, steps=steps, end=14.5)
    assert Calibration.of(timeline) == Calibration(
        start_seconds=7.0, step_seconds=0.25, export_seconds=6.0
    )


@pytest.mark.parametrize(
    "timeline", [Timeline(0.0, [], 3.0), Timeline(1.0, [1.0], 3.0), Timeline(1.0, [2.0, 5.0], 3.0)]
)
def test_a_training_that_did_not_go_through_tells_nothing(timeline: Timeline) -> None:
    assert Calibration.of(timeline) is None


def test_the_first_estimate_is_of_this_machine() -> None:
    measured, assumed = of(MEASURED), of(None)
    assert measured.overhead_seconds == pytest.approx(10.0, abs=0.1)
    assert measured.seconds.expected == pytest.approx(10.0 + 100 * 0.2, rel=0.02)
    assert "measured here" in measured.explanation
    assert "measured here" not in assumed.explanation
    width = [each.seconds.high / each.seconds.low for each in (measured, assumed)]
    assert width[0] < width[1]
