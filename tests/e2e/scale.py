"""What every run of the suite affords, and what a release has to pass as well (`make e2e`)."""

import os

import pytest

of_a_release = pytest.mark.skipif(os.environ.get("E2E") != "release", reason="make e2e runs it")
