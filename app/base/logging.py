"""Logging: one JSON line per event, readable text on a terminal; values that resemble a secret
never leave the process.
"""

import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from structlog.typing import Processor

from app.base.processes.subprocess_env import SECRET_NAME
from app.base.settings import Settings

# The part of each secret that is kept identifies it.
OWN_SECRETS = re.compile(
    r"(ft_(?:live|work)_[0-9A-Za-z]{0,8}_?)[0-9A-Za-z]+|(whsec_)[0-9A-Za-z+/=]+"
)
SECRETS = re.compile(
    OWN_SECRETS.pattern + r"|(\bhf_)[0-9A-Za-z]{16,}"
    r"|((?:Bearer|Basic)\s+)[^\s\"',]+"
    r"|(authorization[\"']?\s*[:=]\s*[\"']?)[a-z]+[ \t]+[^\s\"',;]+"
    r"|((?:authorization|cookie|api[-_]?key|password)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;]+"
    r"|(/links/|X-Amz-Signature=)[^/\s\"'&]+"  # each of these addresses grants access by itself
    r"|(://)[^/\s@]*@",
    re.IGNORECASE,
)
SECRET_FIELDS = {
    "authorization",
    "cookie",
    "set-cookie",
    "api_key",
    "secret",
    "signing_secret",
    "password",
}
MIN_SECRET_CHARACTERS = 8  # shorter ones are parts of ordinary words
HANDLER_NAME = "falqon"
REPEAT_SECONDS = 1.0
MAX_REPEATS_KNOWN = 1000
TRACEBACK_LINE = re.compile(r'File "[^"]*", line \d+')


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Return the secrets of this process's environment, which have no recognisable format."""
    secrets = [
        secret.get_secret_value()
        for secret in (
            settings.admin_key,
            settings.session_secret,
            settings.engine_key,
            settings.judge_key,
            settings.upstream_key,
            settings.oidc_client_secret,
        )
        if secret is not None
    ]
    urls = (settings.database_url, settings.redis_url, settings.storage_url)
    secrets += [unquote(password) for url in urls if (password := _password(url))]
    return secrets + [
        value for name, value in environment.items() if SECRET_NAME.search(name.upper())
    ]


def redact_text(text: str) -> str:
    return SECRETS.sub(_mask, text)


def redact_keys(text: str) -> str:
    """Mask our own keys by their format, in text that users read and pass on."""
    return OWN_SECRETS.sub(_mask, text)


def _mask(match: re.Match[str]) -> str:
    return f"{next((prefix for prefix in match.groups() if prefix), '')}***"


class Redact:
    """Processor that removes secrets from an event: values that resemble one, and those that are
    `known`.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        long = sorted(
            {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS},
            key=len,
            reverse=True,
        )
        self._known = re.compile("|".join(map(re.escape, long)) or r"(?!)")

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        return {
            name: value if name.startswith("_") else self._value(name, value)
            for name, value in event.items()
        }

    def _value(self, name: str, value: Any) -> Any:
        if name.lower() in SECRET_FIELDS:
            return "***"
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {
                self._text(str(key)): self._value(str(key), inner) for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._value("", inner) for inner in value]
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        return redact_text(self._known.sub("***", text))


class OncePerSecond(logging.Filter):
    """Lets a warning or error that repeats pass once a second, with the number of suppressed ones.

    Clients can cause log lines of libraries and errors with a traceback at will, so those are
    limited.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # Time of the last record that passed, and number of records suppressed since.
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = _kind(record) if record.levelno >= logging.WARNING else None
        if kind is None:
            return True
        now = time.monotonic()
        with self._lock:
            passed_at, left_out = self._seen.pop(kind, (now - REPEAT_SECONDS, 0))
            passes = now - passed_at >= REPEAT_SECONDS
            self._seen[kind] = (now, 0) if passes else (passed_at, left_out + 1)
            if len(self._seen) > MAX_REPEATS_KNOWN:
                self._seen.popitem(last=False)
        if passes and left_out:
            _tell(record, left_out)
        return passes


def _kind(record: logging.LogRecord) -> Hashable | None:
    """Return the key that records of one error share; None for records that may repeat."""
    if isinstance(record.msg, dict):
        trace = record.msg.get("exception")
        if not isinstance(trace, str):
            return None
        return (
            record.msg.get("event"),
            *TRACEBACK_LINE.findall(trace)[-1:],
            trace.splitlines()[-1].partition(":")[0],
        )
    if record.exc_info and (trace_end := record.exc_info[2]):
        while trace_end.tb_next:
            trace_end = trace_end.tb_next
        return record.name, record.exc_info[0], trace_end.tb_frame.f_code, trace_end.tb_lineno
    return record.name, str(record.msg)


def _tell(record: logging.LogRecord, left_out: int) -> None:
    if isinstance(record.msg, dict):
        record.msg["left_out"] = left_out
    else:
        record.msg = f"{record.msg} ({left_out} more of these were left out)"


def configure(secrets: Iterable[str] = ()) -> None:
    """Configure logging of this process.

    structlog and the standard library write the same lines to stderr, without these secrets.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        Redact(secrets),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler()
    handler.name = HANDLER_NAME
    handler.addFilter(OncePerSecond())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if other.name != HANDLER_NAME] + [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    # The request log of the API is more detailed.
    for name in ("uvicorn.access", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
