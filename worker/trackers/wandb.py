import wandb

from worker.trackers.protocol import OutcomeName, Run, Scalars


class WandbTracker:
    def __init__(self, run: Run) -> None:
        options = run.options
        self._run = wandb.init(
            project=options["project"],
            entity=options.get("entity"),
            tags=options.get("tags"),
            name=run.name,
            id=run.job_id,
            resume="allow",
            config=run.params,
            settings=wandb.Settings(console="off", disable_code=True, disable_git=True),
        )

    def log(self, step: int, values: Scalars) -> None:
        self._run.log(values, step=step)

    def finish(self, outcome: OutcomeName) -> None:
        self._run.finish(exit_code=1 if outcome == "failed" else 0)
