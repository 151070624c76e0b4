"""The short run of `make fuzz`: what /openapi.json says is what the API does, for any request and
with the rights of any key. Requests that are chained are made there alone.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fuzz.run import ROLES, fuzz
from tests.fuzz.server import fuzzed_api
from tests.fuzz.unserved import ASKS_A_MODEL
from tests.support.api import PATIENCE, Api
from tests.support.receiver import receiving

# Every edge of the schemas of other operations each time, on the database that is stricter; made-up
# requests for all of them on the other one, and for a key that may change nothing.
RUNS: list[tuple[str, str, str, int, float]] = [
    ("postgres", "installation admin", "coverage", 1, 0.5),
    ("sqlite", "reader", "fuzzing", 1, 1.0),
]
LIKE_A_JOB = "POST /v1/fine_tuning/estimates"

OF_READERS = ([{"HTTPBearer": ["infer"]}], [{"HTTPBearer": ["read"]}])

_numbers = itertools.count()


@pytest.fixture
def api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Api]:
    url = f"sqlite:///{tmp_path / 'falqon.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create_database(f"fuzz_{next(_numbers)}")
    with fuzzed_api(url, tmp_path / "api") as api:
        yield api


@pytest.mark.slow
@pytest.mark.parametrize(("api", "role", "phases", "num_examples", "share"), RUNS, indirect=["api"])
def test_answers_are_as_described(
    api: Api, tmp_path: Path, role: str, phases: str, num_examples: int, share: float
) -> None:
    described = httpx.get(f"{api.url}/openapi.json", timeout=PATIENCE, verify=False).json()["paths"]
    operations = {
        f"{method.upper()} {path}" for path, methods in described.items() for method in methods
    }
    exclude = set(random.sample(sorted(operations), round(len(operations) * (1 - share))))
    if share < 1:
        exclude.add(LIKE_A_JOB)
    with receiving() as receiver:
        outcome = fuzz(
            api,
            ROLES[role],
            receiver.url,
            tmp_path,
            num_examples=num_examples,
            seed=1,
            phases=phases,
            exclude=sorted(exclude),
        )
    assert not outcome.failures, outcome.output
    for operation, counts in outcome.answers.items():
        # No worker is here that would load a model.
        expected = {503} if operation in ASKS_A_MODEL else set()
        assert {status for status in counts if status >= 500} <= expected, operation
    assert operations == set(outcome.answers) | exclude
    for operation, counts in outcome.answers.items():
        method, path = operation.split()
        security = described[path][method.lower()].get("security")
        if role == "reader" and security not in OF_READERS:
            assert operation.endswith("z") or not any(status < 400 for status in counts), operation
