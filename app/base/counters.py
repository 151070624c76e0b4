"""Counters and measurements of one process, for Prometheus. `app/metrics/` reads those that only
the database has.

Counts that belong to a transaction are added after its commit (`after_commit`). No label holds a
value chosen by a user.
"""

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# Would add a second time series for each, which no query uses.
disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Causes for which attempts are lost. Programs in place of the trainer may name others.
LOSSES = {
    "worker_lost",
    "trainer_hung",
    "trainer_killed",
    "trainer_crashed",
    "internal_error",
    "bytes_missing",
    "checkpoint_corrupt",
    "checkpoint_of_other_version",
}
HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
CHECKPOINT_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

HTTP_REQUESTS = Counter(
    "falqon_http_requests",
    "Requests, by the template of their route.",
    ["method", "route", "status"],
)
HTTP_SECONDS = Histogram(
    "falqon_http_request_seconds",
    "Seconds until a response begins; a stream or a download may last long after that.",
    ["method", "route"],
    buckets=HTTP_BUCKETS,
)
JOB_CHANGES = Counter("falqon_job_changes", "Jobs that entered a status.", ["status"])
CLAIMS = Counter("falqon_job_claims", "Attempts begun, by device.", ["device"])
PREEMPTIONS = Counter("falqon_preemptions", "Jobs that were told to give their GPUs back.")
ATTEMPTS_LOST = Counter(
    "falqon_attempts_lost", "Attempts lost to machines or faults, by error code.", ["code"]
)
ANSWERS_NOT_STORED = Counter(
    "falqon_answers_not_stored",
    "Answers that were to be stored and are not.",
    ["reason"],
)
STORAGE_ERRORS = Counter("falqon_storage_errors", "Errors of an unavailable storage.")
CHECKPOINT_SECONDS = Histogram(
    "falqon_checkpoint_upload_seconds",
    "Seconds from the announcement of a checkpoint until its row.",
    buckets=CHECKPOINT_BUCKETS,
)
RELAY_BACKLOG = Gauge("falqon_relay_backlog_events", "Events of the trainer not yet written.")
RECONCILED_AT = Gauge(
    "falqon_reconciler_tick_timestamp_seconds", "Time of the reconciler's last complete tick."
)


def lost_attempts(code: str) -> Counter:
    """Return the counter of attempts that were lost in this way."""
    return ATTEMPTS_LOST.labels(code if code in LOSSES else OTHER)


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request and its duration."""
    method = method if method in METHODS else OTHER
    HTTP_REQUESTS.labels(method, route, str(status)).inc()
    HTTP_SECONDS.labels(method, route).observe(seconds)
