"""Loaded by schemathesis: counts what each operation was answered; keeps it from jobs that never
end, and from taking its own quotas.
"""

import atexit
import json
import os
import re
from collections import Counter, defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import EnsureResourceAvailability

from tests.fuzz.unserved import ASKS_A_MODEL

STREAM = "/v1/fine_tuning/jobs/{job_id}/stream"
CHANGE_PROJECT = "POST /v1/projects/{project_id}"
DRY_RUN = "ftjob-dry-run"  # names no job
FILE_OF_ANOTHER_TYPE = re.compile(r"/properties/(data|file) \(was string, became")
ENDED_JOB, OWN_PROJECT, OTHER_PROJECT = (
    os.environ[name] for name in ("FUZZ_ENDED_JOB", "FUZZ_PROJECT", "FUZZ_OTHER_PROJECT")
)

_answers: defaultdict[str, Counter[int]] = defaultdict(Counter)


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, object]) -> None:
    if case.operation.path == STREAM and str(case.path_parameters.get("job_id", "")).startswith(
        "ftjob-"
    ):
        case.path_parameters["job_id"] = ENDED_JOB
    if (
        case.operation.label == CHANGE_PROJECT
        and case.path_parameters.get("project_id") == OWN_PROJECT
    ):
        case.path_parameters["project_id"] = OTHER_PROJECT


@schemathesis.hook
def after_call(context: HookContext, case: Case[Any], response: Response) -> None:
    _answers[case.operation.label][response.status_code] += 1


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """False for what only looks like a fault from outside."""
    if isinstance(failure, EnsureResourceAvailability):
        return case.path_parameters.get("job_id") != DRY_RUN
    if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # no worker here loads a model
        return case.operation.label not in ASKS_A_MODEL
    # a part of a form that is a file holds bytes, whatever they were written from
    if isinstance(failure, AcceptedNegativeData):
        return FILE_OF_ANOTHER_TYPE.search(failure.message) is None
    return True


@atexit.register
def _write() -> None:
    Path(os.environ["FUZZ_ANSWERS"]).write_text(json.dumps(_answers))
