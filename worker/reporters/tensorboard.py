import json

from tensorboardX import SummaryWriter

from worker.reporters.protocol import OutcomeName, Run, Scalars


class Reporter:
    """Event files below the working directory, one folder for each job."""

    def __init__(self, run: Run) -> None:
        self._writer = SummaryWriter(logdir=f"tensorboard/{run.job_id}")
        self._writer.add_text("job", f"```\n{json.dumps(run.params, indent=1)}\n```")

    def log(self, step: int, values: Scalars) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, outcome: OutcomeName) -> None:
        self._writer.close()
