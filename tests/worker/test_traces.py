"""One trace from the request to the trainer, as a collector of OpenTelemetry receives it."""

from contextlib import closing
from typing import Any

import pytest

from app.models import JobStatus
from tests.chaos.api_process import ApiProcess
from tests.chaos.submitters import JOBS, Client
from tests.support.backend import BASE_MODEL, Backend
from tests.support.fake_trainer import FakeTrainer
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import wait_for

messages = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="falqon[otel] is missing"
)
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REQUEST = "POST /v1/fine_tuning/jobs"
ATTEMPT = ["stage", "train", "publish"]
TRAINER = ["load", "steps", "checkpoint", "steps", "checkpoint", "evaluate", "export"]
NUM_SPANS = len([REQUEST, "attempt", *ATTEMPT, *TRAINER])
PATIENCE = 120.0  # seconds; the machine may be busy


def spans_of(collector: Receiver) -> dict[str, list[tuple[str, Any]]]:
    """Return by trace what has come: the service, and its span."""
    spans: dict[str, list[tuple[str, Any]]] = {}
    for received in list(collector.received):
        request = messages.ExportTraceServiceRequest.FromString(received.body)
        for of_process in request.resource_spans:
            (service,) = [
                each.value.string_value
                for each in of_process.resource.attributes
                if each.key == "service.name"
            ]
            for scope in of_process.scope_spans:
                for span in scope.spans:
                    spans.setdefault(span.trace_id.hex(), []).append((service, span))
    return spans


def test_a_job_is_one_trace_from_the_request_to_the_trainer(embedded_backend: Backend) -> None:
    backend = embedded_backend
    with receiving() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with closing(ApiProcess(backend, environment)) as api, Client(backend, api.url) as client:
            client.http.get("/links/a-secret/model.safetensors")
            file_id = client.upload(FakeTrainer(steps=10, checkpoint_every=5))
            body = {"model": BASE_MODEL, "training_file": file_id}
            traceparent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            job_id = client.http.post(JOBS, json=body, headers=traceparent).json()["id"]
            backend.start_worker(**environment)
            backend.wait_for_status(job_id, JobStatus.SUCCEEDED, seconds=PATIENCE)
            wait_for(lambda: len(spans_of(collector).get(TRACE, [])) == NUM_SPANS, PATIENCE)
        traces = spans_of(collector)

    spans = sorted((span for _, span in traces[TRACE]), key=lambda span: span.start_time_unix_nano)
    ids = {span.name: span.span_id.hex() for span in spans}
    children: dict[str, list[str]] = {}
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        children.setdefault(span.parent_span_id.hex(), []).append(span.name)
    assert children == {
        CALLER: [REQUEST],
        ids[REQUEST]: ["attempt"],
        ids["attempt"]: ATTEMPT,
        ids["train"]: TRAINER,
    }
    services = {span.name: service for service, span in traces[TRACE]}
    assert (services[REQUEST], services["export"]) == ("falqon-api", "falqon-worker")
    others = str([span for trace in traces.values() for _, span in trace])
    assert "/v1/files" in others
    assert "a-secret" not in others
