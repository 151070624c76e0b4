import trackio

from worker.trackers.protocol import OutcomeName, Run, Scalars


class TrackioTracker:
    """Runs are told apart by their names, so the job's id is part of each."""

    def __init__(self, run: Run) -> None:
        name = run.job_id if run.name == run.job_id else f"{run.name} {run.job_id}"
        trackio.init(project=run.options["project"], name=name, config=run.params, resume="allow")

    def log(self, step: int, values: Scalars) -> None:
        trackio.log(values, step=step)

    def finish(self, outcome: OutcomeName) -> None:
        trackio.finish()
