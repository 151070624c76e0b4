import json
import os
import sys

sys.modules["torch"] = None  # type: ignore[assignment]  # tensorboardX would load it where it is installed; here are no tensors

from tensorboardX import SummaryWriter  # noqa: E402

from worker.trackers.protocol import OutcomeName, Run, Scalars  # noqa: E402


class TensorboardTracker:
    """Event files below the working directory, one folder for each job."""

    def __init__(self, run: Run) -> None:
        # The library names files by the second: an attempt that follows at once would write over
        # the one before.
        self._writer = SummaryWriter(
            logdir=f"tensorboard/{run.job_id}", filename_suffix=f".{os.getpid()}"
        )
        self._writer.add_text("job", f"```\n{json.dumps(run.params, indent=1)}\n```")

    def log(self, step: int, values: Scalars) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, outcome: OutcomeName) -> None:
        self._writer.close()
