"""What every run of the suite affords, and what a release has to pass as well (`make e2e`)."""

import os

import pytest


def is_release() -> bool:
    return os.environ.get("E2E") == "release"


of_a_release = pytest.mark.skipif(not is_release(), reason="make e2e runs it")
