"""What a request is called among those that change something: the same whether it came over the
API or from the dashboard.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from fastapi import Request
from structlog.contextvars import get_contextvars

from app.auth import audit

SAFE = {"GET", "HEAD", "OPTIONS"}
A_QUESTION = "it asks and changes nothing"
UNAUDITED = {
    "/v1/chat/completions": A_QUESTION,
    "/v1/completions": A_QUESTION,
    "/playground/v1/chat/completions": A_QUESTION,
    "/v1/fine_tuning/estimates": A_QUESTION,
    "/jobs/new/estimate": A_QUESTION,
    "/hub/api/{kind}/{repo:path}/paths-info/{revision}": A_QUESTION,
    "/v1/fine_tuning/alpha/graders/run": "there are no such graders",
    "/v1/fine_tuning/alpha/graders/validate": "there are no such graders",
    "/v1/uploads/{upload_id}/parts": "a file of thousands of parts is one upload",
    "/v1/webhook_endpoints/{webhook_endpoint_id}/test": "a sample leaves nothing behind",
    "/settings/webhooks/{endpoint_id}/test": "a sample leaves nothing behind",
    "/v1/models/{model:path}/links": "a link is signed and stored nowhere",
    "/models/{model:path}/links": "a link is signed and stored nowhere",
    "/project": "each of the keys has signed in by itself",
}
RESOURCES = {
    "api_keys": "api_key",
    "keys": "api_key",
    "data": "file",
    "files": "file",
    "deliveries": "webhook_delivery",
    "engines": "engine",
    "evaluations": "evaluation",
    "exports": "export",
    "jobs": "job",
    "model": "export",  # that a checkpoint is made into
    "models": "model",
    "permissions": "checkpoint.permission",
    "prices": "prices",
    "projects": "project",
    "source_tokens": "source_token",
    "studies": "study",
    "uploads": "upload",
    "webhook_endpoints": "webhook",
    "webhooks": "webhook",
    "worker_tokens": "worker_token",
}
# By the last word of an address that is no resource; of the others the method decides.
VERBS = {
    "archive": "archived",
    "cancel": "cancelled",
    "check": "checked",
    "clone": "cloned",
    "complete": "completed",
    "delete": "deleted",
    "disable": "disabled",
    "enable": "enabled",
    "hf": "updated",
    "keep": "updated",
    "limits": "updated",
    "new": "created",
    "pause": "paused",
    "resend": "resent",
    "resume": "resumed",
    "revoke": "deleted",
    "rotate": "rotated",
    "rotate_secret": "rotated",
    "s3": "updated",
    "sources": "created",
    "unload": "deleted",
}
SESSIONS = {"/sign-in": "login.succeeded", "/sign-out": "logout.succeeded"}
_PARAMETER = re.compile(r"\{(\w+)(:\w+)?\}")


class UnnamedChange(Exception):
    """A route changes something by words that are not here."""


def event_type_of(method: str, path: str) -> str:
    """Return the name of what a route does. Raises `UnnamedChange`."""
    if path in SESSIONS:
        return SESSIONS[path]
    try:
        return _named_by_words(method, path)
    except KeyError as error:
        raise UnnamedChange(
            f"{method} {path}: the audit log has no word for {error}; {__name__} takes one in "
            "RESOURCES or VERBS, or the route in UNAUDITED."
        ) from None


def _named_by_words(method: str, path: str) -> str:
    words = [word for word in path.split("/") if word]
    of_resources = [word for word in words if word in RESOURCES]
    resource = RESOURCES[(of_resources or words)[-1]]
    last = words[-1]
    if last.startswith("{"):
        return f"{resource}.{'deleted' if method == 'DELETE' else 'updated'}"
    if last not in RESOURCES:
        return f"{resource}.{VERBS[last]}"
    is_setting = method == "PUT" or path == "/settings/prices"
    return f"{resource}.{'updated' if is_setting else 'created'}"


def resource_parameter(path: str) -> str | None:
    """Return the parameter of the path that names what is changed."""
    names = [name for name, _ in _PARAMETER.findall(path)]
    return names[-1] if names else None


def auditor(
    methods: Iterable[str], path: str
) -> Callable[[Request], AbstractContextManager[object]]:
    """Return what watches the requests of a route as far as they may change something. Raises
    `UnnamedChange`.
    """
    event_types = {
        method: event_type_of(method, path)
        for method in methods
        if path not in UNAUDITED and (method not in SAFE or path in SESSIONS)  # a link signs in
    }
    parameter = resource_parameter(path)

    def audited(request: Request) -> AbstractContextManager[object]:
        event_type = event_types.get("GET" if request.method == "HEAD" else request.method)
        if event_type is None:
            return nullcontext()
        return audit.watch(
            event_type,
            request.path_params.get(parameter) if parameter else None,
            str(get_contextvars().get("request_id", "")),
            request.client.host if request.client else "",
        )

    return audited
