"""The request of a clone: the original one with overrides merged in, as JSON Merge Patch (RFC 7396) merges."""

from app.jobs.requests import JobRequest
from app.models.base import JsonObject


def overridden(requested: JsonObject, overrides: JsonObject) -> JobRequest:
    """Objects merge, null takes a field away, everything else replaces. Raises pydantic's `ValidationError`."""
    return JobRequest.model_validate(_merged(requested, overrides))


def _merged(original: JsonObject, patch: JsonObject) -> JsonObject:
    result = dict(original)
    for name, value in patch.items():
        before = result.pop(name, None)
        if isinstance(before, dict) and isinstance(value, dict):
            result[name] = _merged(before, value)
        elif value is not None:
            result[name] = value
    return result
