import mlflow

from worker.trackers.protocol import OutcomeName, Run, Scalars

JOB_TAG = "falqon.job_id"
STATUS_BY_OUTCOME = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MlflowTracker:
    def __init__(self, run: Run) -> None:
        experiment = mlflow.set_experiment(run.options["experiment"])
        runs = mlflow.MlflowClient().search_runs(
            [experiment.experiment_id], f"tags.`{JOB_TAG}` = '{run.job_id}'", max_results=1
        )
        if runs:
            mlflow.start_run(run_id=runs[0].info.run_id)
            return
        mlflow.start_run(run_name=run.name, tags={JOB_TAG: run.job_id})
        mlflow.log_params(run.params)

    def log(self, step: int, values: Scalars) -> None:
        mlflow.log_metrics(values, step=step)

    def finish(self, outcome: OutcomeName) -> None:
        mlflow.end_run(STATUS_BY_OUTCOME[outcome])
