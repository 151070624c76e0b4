"""Tracing with OpenTelemetry: the destination of spans, and the trace of a job."""

from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.base.settings import Settings

TRACEPARENT = "traceparent"
UNTRACED_PATHS = {"/healthz", "/readyz", "/metrics"}
LINKS = "/links/"  # a span holds the path, and the path of a link grants access by itself

log = structlog.get_logger()
_propagator = TraceContextTextMapPropagator()


def configure(settings: Settings, process: str) -> None:
    """Send the spans of this process to the collector of the settings, if there is one."""
    if not settings.otlp_endpoint:
        return
    try:  # imported late: they are optional, and idle processes stay small
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.error("traces are not sent: OpenTelemetry is missing", install="pip install '.[otel]'")
        return
    name = Resource.create({"service.name": f"falqon-{process}"})
    provider = TracerProvider(resource=name.merge(OTELResourceDetector().detect()))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def is_untraced(scope: MutableMapping[str, Any]) -> bool:
    """Return True if a request has no span."""
    path = scope.get("path", "")
    return path in UNTRACED_PATHS or path.startswith(LINKS)


def current_traceparent() -> str | None:
    """Return the current span in W3C's format; None outside of any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT)


def context_of(traceparent: str | None) -> Context:
    """Return the context in which a span is a child of that one, or else begins a trace."""
    return _propagator.extract({} if traceparent is None else {TRACEPARENT: traceparent}, Context())
