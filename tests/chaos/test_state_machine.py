"""Users, workers, zombies and the reconciler in any order, against a real database and a plain
model beside it.
"""

from collections import Counter
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.conftest import Count
from tests.chaos.jobs_machine import JobsMachine
from tests.chaos.scale import SCALE, every_run_on
from tests.support.backend import Backend

STEPS_PER_EXAMPLE = 50
MAX_STEPS = max(4_000, 4 * SCALE.state_machine_steps)
RULES = {
    "submit",
    "submit_again",
    "delete",
    "check_file",
    "claim",
    "renew",
    "record",
    "relay",
    "release",
    "run_out_of_space",
    "finish",
}
RULES |= {"pause", "resume", "cancel", "expire", "rescue", "haunt"}


@every_run_on("postgres")
def test_whatever_comes_in_whatever_order(backend: Backend, seed: int, count: Count) -> None:
    rule_counts: Counter[str] = Counter()
    try:
        # a rule may be left out of whole examples, so few steps need not reach all of them
        while (left := SCALE.state_machine_steps - rule_counts.total()) > 0 or (
            set(rule_counts) != RULES and rule_counts.total() < MAX_STEPS
        ):
            settings = hypothesis.settings(
                max_examples=max(left // STEPS_PER_EXAMPLE + 1, SCALE.min_examples),
                stateful_step_count=STEPS_PER_EXAMPLE,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            machine: Any = hypothesis.seed(seed + rule_counts.total())(
                lambda: JobsMachine(backend, rule_counts)
            )
            run_state_machine_as_test(machine, settings=settings)
    finally:
        count(steps=rule_counts.total(), **rule_counts)
    assert set(rule_counts) == RULES
