"""One JSON line per event, readable text on a terminal; what looks like a secret never leaves the process."""

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from structlog.typing import Processor

from app.child_environment import SECRET
from app.settings import Settings

# What is kept of each tells which secret it was.
OURS = re.compile(r"(ft_live_[0-9A-Za-z]{0,8}_?)[0-9A-Za-z]+|(whsec_)[0-9A-Za-z+/=]+")
SECRETS = re.compile(
    OURS.pattern + r"|(\bhf_)[0-9A-Za-z]{16,}"
    r"|((?:Bearer|Basic)\s+)[^\s\"',]+"
    r"|((?:authorization|cookie|api[-_]?key|password)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;]+"
    r"|(/links/|X-Amz-Signature=)[^/\s\"'&]+"  # whoever has these addresses has what they open
    r"|(://)[^/\s@]*@",
    re.IGNORECASE,
)
SECRET_FIELDS = {"authorization", "cookie", "set-cookie", "api_key", "secret", "signing_secret", "password"}
MIN_SECRET_CHARACTERS = 8  # shorter ones are parts of ordinary words
HANDLER_NAME = "falqon"


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """What this process was told and nobody may read: its own secrets have no shape to know them by."""
    told = [secret.get_secret_value() for secret in (settings.admin_key, settings.session_secret) if secret is not None]
    urls = (settings.database_url, settings.redis_url, settings.storage_url)
    told += [unquote(password) for url in urls if (password := _password(url))]
    return told + [value for name, value in environment.items() if SECRET.search(name.upper())]


def redact_text(text: str) -> str:
    return SECRETS.sub(_kept, text)


def redact_keys(text: str) -> str:
    """For what users read and pass on: only what has the shape of our own keys."""
    return OURS.sub(_kept, text)


def _kept(match: re.Match[str]) -> str:
    return f"{next((kept for kept in match.groups() if kept), '')}***"


class Redact:
    """A processor that leaves no secret in an event: neither what looks like one, nor those that are `known`."""

    def __init__(self, known: Iterable[str]) -> None:
        long = sorted({secret for secret in known if len(secret) >= MIN_SECRET_CHARACTERS}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, long)) or r"(?!)")

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {name: value if name.startswith("_") else self._value(name, value) for name, value in event.items()}

    def _value(self, name: str, value: Any) -> Any:
        if name.lower() in SECRET_FIELDS:
            return "***"
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {self._text(str(key)): self._value(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._value("", inner) for inner in value]
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        return redact_text(self._known.sub("***", text))


def configure(secrets: Iterable[str] = ()) -> None:
    """For this process: structlog's and the standard library's loggers write the same lines to stderr, without these secrets."""
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
    renderer: Processor = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler()
    handler.name = HANDLER_NAME
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if other.name != HANDLER_NAME] + [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # the request log of the API says more


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
