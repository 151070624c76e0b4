"""A query that serves a user names their project. Whoever adds one that does not says here why it
need not.
"""

import importlib
import inspect
from pathlib import Path

APP = Path(__file__).parents[2] / "app"
BEHIND_A_SCOPED_LOOK_UP = (
    "its parent was found in the caller's project by the service that calls this"
)
BY_THE_SERVICE_ITSELF = "no user names the row: a worker or the reconciler does"
BEFORE_ANY_PROJECT_IS_KNOWN = "it tells who asks"
OF_THE_INSTALLATION = (
    "what it answers belongs to no project: prices, measured rates, which projects there are, "
    "how much waits"
)

WITHOUT_PROJECT = {
    "artifacts.find": BEHIND_A_SCOPED_LOOK_UP,
    "artifacts.replace": BEHIND_A_SCOPED_LOOK_UP,
    "catalogue.add_base": BY_THE_SERVICE_ITSELF,
    "catalogue.bases": OF_THE_INSTALLATION,
    "catalogue.live_job_from": BEHIND_A_SCOPED_LOOK_UP,
    "estimates.samples": OF_THE_INSTALLATION,
    "exports.add": BEHIND_A_SCOPED_LOOK_UP,
    "exports.complete": BY_THE_SERVICE_ITSELF,
    "files.add_check": BEHIND_A_SCOPED_LOOK_UP,
    "files.add_import": BEHIND_A_SCOPED_LOOK_UP,
    "files.expired": BY_THE_SERVICE_ITSELF,
    "files.get": BY_THE_SERVICE_ITSELF,
    "files.imports_of": BEHIND_A_SCOPED_LOOK_UP,
    "files.judge": BY_THE_SERVICE_ITSELF,
    "files.mark_deleted": BEHIND_A_SCOPED_LOOK_UP,
    "files.replace_content": BY_THE_SERVICE_ITSELF,
    "files.withdraw_verdict": BEHIND_A_SCOPED_LOOK_UP,
    "dataset_statistics.exact_amount": BEHIND_A_SCOPED_LOOK_UP,
    "dataset_statistics.find": BEHIND_A_SCOPED_LOOK_UP,
    "dataset_statistics.of_file": BEHIND_A_SCOPED_LOOK_UP,
    "inference.ask_for": BEHIND_A_SCOPED_LOOK_UP,
    "inference.end": OF_THE_INSTALLATION,
    "inference.find": BEHIND_A_SCOPED_LOOK_UP,
    "inference.find_ready": BEHIND_A_SCOPED_LOOK_UP,
    "inference.give_up": BEHIND_A_SCOPED_LOOK_UP,
    "inference.is_private": OF_THE_INSTALLATION,
    "inference.keep_loaded": OF_THE_INSTALLATION,
    "inference.note_use": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.attempts": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.checkpoints": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.checkpoints_of": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.delete": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.events_after": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.events_before": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.files_of": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.lacks_its_base": BY_THE_SERVICE_ITSELF,
    "jobs.live_job_from_checkpoint_of": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.lock_for_reading": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.messages": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.metric": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.metrics": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.newest_metrics_step": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.step_before": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.steps_before": BEHIND_A_SCOPED_LOOK_UP,
    "jobs.validating_with": BY_THE_SERVICE_ITSELF,
    "keys.any_exists": BEFORE_ANY_PROJECT_IS_KNOWN,
    "keys.holds_digest": BEFORE_ANY_PROJECT_IS_KNOWN,
    "metrics.count_engines": OF_THE_INSTALLATION,
    "metrics.count_operations": OF_THE_INSTALLATION,
    "metrics.count_queued": OF_THE_INSTALLATION,
    "metrics.count_running": OF_THE_INSTALLATION,
    "metrics.count_unclaimed": OF_THE_INSTALLATION,
    "metrics.longest_wait_seconds": OF_THE_INSTALLATION,
    "metrics.oldest_lease_age_seconds": OF_THE_INSTALLATION,
    "notifier.mark": BY_THE_SERVICE_ITSELF,
    "notifier.oldest": BY_THE_SERVICE_ITSELF,
    "permissions.add": BEHIND_A_SCOPED_LOOK_UP,
    "permissions.delete": BEHIND_A_SCOPED_LOOK_UP,
    "permissions.find": BEHIND_A_SCOPED_LOOK_UP,
    "permissions.unknown_projects": OF_THE_INSTALLATION,
    "prices.devices_of_workers": OF_THE_INSTALLATION,
    "prices.overrides": OF_THE_INSTALLATION,
    "projects.book_attempt": BY_THE_SERVICE_ITSELF,
    "projects.current_month": OF_THE_INSTALLATION,
    "projects.device_seconds": BEHIND_A_SCOPED_LOOK_UP,
    "projects.usages": BEHIND_A_SCOPED_LOOK_UP,
    "stream.states": BEHIND_A_SCOPED_LOOK_UP,
    "uploads.any_overdue": BY_THE_SERVICE_ITSELF,
    "uploads.expire": BY_THE_SERVICE_ITSELF,
    "uploads.parts": BEHIND_A_SCOPED_LOOK_UP,
    "uploads.remove_parts": BEHIND_A_SCOPED_LOOK_UP,
    "uploads.size_of_parts": BEHIND_A_SCOPED_LOOK_UP,
    "usage.book": BY_THE_SERVICE_ITSELF,
    "webhooks.claim": BY_THE_SERVICE_ITSELF,
    "webhooks.deliveries": BEHIND_A_SCOPED_LOOK_UP,
    "webhooks.delivery": BEHIND_A_SCOPED_LOOK_UP,
    "webhooks.due": BY_THE_SERVICE_ITSELF,
    "webhooks.give_up_pending": BEHIND_A_SCOPED_LOOK_UP,
    "webhooks.record": BY_THE_SERVICE_ITSELF,
}


def test_every_query_names_a_project_or_says_why_not() -> None:
    unscoped = set()
    for path in APP.glob("*/repository.py"):
        module = importlib.import_module(f"app.{path.parent.name}.repository")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            parameters = inspect.signature(function).parameters
            is_query = (
                function.__module__ == module.__name__
                and not name.startswith("_")
                and "session" in parameters
            )
            if is_query and "project_id" not in parameters:
                unscoped.add(f"{path.parent.name}.{name}")
    assert unscoped == set(WITHOUT_PROJECT)
