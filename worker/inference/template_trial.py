"""The trial of a model's chat templates, in a process of its own, before an engine has them."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.base.processes.child_process import ChildProcess
from app.base.processes.subprocess_env import offline_environment
from worker.operations.handler import PermanentError

TRIAL_MODULE = "falqon_core.importers.template_trial"
TRIAL_POLL_SECONDS = 0.1
MAX_SENTENCE = 500
_PASSED = set[Path]()  # Folders of models are named by what is in them.


def try_templates(path: Path, check: Callable[[], None]) -> None:
    """Raise `PermanentError` for templates that take more than any sound one does. `check` may
    raise to give up.
    """
    if path in _PASSED:
        return
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        process = ChildProcess(
            [sys.executable, "-m", TRIAL_MODULE, str(path)],
            offline_environment(os.environ),
            stdout=output,
            stderr=log,
        )
        with process:
            while (exit_code := process.wait_up_to(TRIAL_POLL_SECONDS)) is None:
                check()
        if exit_code == 0:
            _PASSED.add(path)
            return
        output.seek(0)
        sentence = output.read(MAX_SENTENCE).decode(errors="replace")
    raise PermanentError(
        "chat_template_refused",
        sentence or "The model's chat template does not come to an end, so no engine has it.",
    )
