import os
import re
import sys
from datetime import timedelta
from decimal import Decimal
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    NonNegativeInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app.base import env_file
from app.base.plain_words import in_plain_words
from app.base.setting_checks import (
    check_issuer,
    check_origin,
    check_proxies,
    check_redis,
    check_sign_in_scopes,
)
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.devices import DEVICES

PREFIX = "FALQON_"
# Variables that the client commands read, and a worker that reaches only the API.
OF_CLIENT = {"FALQON_API_KEY", "FALQON_BASE_URL", "FALQON_WORKER_TOKEN"}
# Kubernetes sets such variables in every pod for a service named falqon or falqon-….
OF_KUBERNETES = re.compile(
    r"FALQON_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
MIN_SIMILARITY = 0.75  # similarity, 1 for equal names; the prefix, which all share, is not compared
MIN_HEARTBEATS = 2  # heartbeats per lease: a late heartbeat must not cost the job
MAX_DURATION = timedelta(days=1)
MAX_SOCKET_PATH_BYTES = 107  # the kernel's limit for a Unix socket's name


Duration = Annotated[timedelta, Field(gt=timedelta(0), le=MAX_DURATION)]
KeptFor = Annotated[timedelta | None, Field(ge=timedelta(days=1), le=timedelta(days=36_500))]
Delay = Annotated[timedelta, Field(ge=timedelta(0), le=MAX_DURATION)]


# With three digits a single token costs a whole number of 1e-9 dollars.
PriceOfTokens = Annotated[Decimal, Field(ge=0, le=100_000, decimal_places=3)]


# As `fnmatch` has them: *, ?, [abc]. Case counts.
ModelPattern = Annotated[str, Field(min_length=1, max_length=512)]
EngineUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]


class TokenPrice(BaseModel):
    """Price of a million tokens in dollars."""

    model_config = ConfigDict(extra="forbid")

    input: PriceOfTokens
    output: PriceOfTokens


class Settings(BaseSettings):
    """Settings of the service; each field is an environment variable `FALQON_…` or the alias beside
    it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=env_file.ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    data_dir: Path = Field(
        Path(".falqon"), description="embedded database, objects, sockets, worker scratch"
    )
    database_url: str = Field(
        "", validation_alias="DATABASE_URL", description="empty: SQLite in data_dir"
    )
    redis_url: Annotated[str, AfterValidator(check_redis)] = Field(
        "",
        validation_alias="REDIS_URL",
        description="empty: the embedded Valkey's socket in data_dir",
    )
    storage_url: str = Field(
        "", validation_alias="STORAGE_URL", description="file:///…, s3://…; empty: data_dir/objects"
    )

    admin_key: SecretStr | None = Field(
        None, description="API key with every right; empty: one is generated and shown once"
    )
    session_secret: SecretStr | None = Field(
        None,
        description=(
            "signs the dashboard's cookie, webhook secrets derive from it; empty: generated into "
            "data_dir"
        ),
    )

    oidc_issuer: Annotated[str, AfterValidator(check_issuer)] = Field(
        "",
        description=(
            "identity provider that people sign in through (OpenID Connect), such as "
            "https://login.example.com/realms/acme; empty: with API keys alone"
        ),
    )
    oidc_client_id: str = Field("", description="id of this service at the identity provider")
    oidc_client_secret: SecretStr | None = Field(
        None, description="its secret there; empty: a public client, which PKCE protects"
    )
    oidc_scopes: Annotated[str, AfterValidator(check_sign_in_scopes)] = Field(
        "openid email profile", description="scopes of a sign-in; some providers need groups here"
    )
    oidc_groups_claim: str = Field(
        "groups", min_length=1, description="claim of the ID token that names a person's groups"
    )
    oidc_name: str = Field(
        "", description="name of the provider on the sign-in page; empty: the issuer's host"
    )
    # Longest time from a sign-in to the next; a group that a person left counts until then.
    oidc_session: Duration = timedelta(hours=8)

    requests_per_minute: int = Field(
        6000,
        ge=1,
        le=1_000_000,
        description="per API key, unless its project has a limit of its own",
    )
    tokens_per_minute: int = Field(
        6_000_000,
        ge=1,
        le=1_000_000_000,
        description="tokens that models read and write per API key",
    )
    answers_per_key: int = Field(
        1024, ge=1, le=1_000_000, description="outstanding answers per API key, in each API process"
    )
    wrong_keys_per_minute: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="per address, before unknown keys from there must wait",
    )
    hosts: list[str] = Field(
        [], description="host names that requests may use (the Host header); empty: any"
    )
    allowed_origins: list[Annotated[str, AfterValidator(check_origin)]] = Field(
        [],
        description="origins of other sites whose pages may call the API with a key (CORS), such "
        "as https://chat.example.com; *: any; empty: none",
    )
    forwarded_allow_ips: Annotated[str, AfterValidator(check_proxies)] = Field(
        "",
        validation_alias="FORWARDED_ALLOW_IPS",
        description=(
            "proxies whose X-Forwarded-For and -Proto are trusted: addresses and networks, with "
            "commas; empty: none"
        ),
    )
    max_connections: int = Field(
        5000,
        ge=1,
        le=1_000_000,
        description="open at once in each API process; no more than half of its open files",
    )
    head_timeout: timedelta = Field(
        timedelta(seconds=10),
        gt=timedelta(0),
        description="a request's head that is incomplete by then is refused",
    )
    body_timeout: timedelta = Field(
        timedelta(seconds=60),
        gt=timedelta(0),
        description="a body without a new byte for so long is refused",
    )
    webhook_networks: list[IPvAnyNetwork] = Field(
        [],
        description=(
            "networks that webhooks and sources of files may reach although they are not public, "
            "also without TLS, such as 127.0.0.0/8"
        ),
    )
    hub_endpoint: str = Field(
        "",
        validation_alias="HF_ENDPOINT",
        description="endpoint of hf:// sources and base models; empty: the Hugging Face Hub",
    )

    model_aliases: dict[str, str] = Field(
        {},
        description=(
            "names that stand for models in every project, until `falqon aliases` changes them: "
            '{"gpt-4o-mini-2024-07-18": "qwen3-4b"}'
        ),
    )

    download_redirects: bool = Field(
        True,
        description=(
            "downloads are redirected to the object store; false if clients cannot reach it: "
            "then the API sends the bytes"
        ),
    )
    # Bytes of a file uploaded in one request; the same limits as OpenAI's API.
    max_file_bytes: int = Field(512 * 2**20, ge=1)
    max_upload_bytes: int = Field(8 * 2**30, ge=1)  # bytes of a file uploaded in parts
    lease: Duration = timedelta(seconds=60)  # a worker that is silent this long has lost its job
    heartbeat: Duration = timedelta(seconds=10)
    # Seconds between the polls of an idle worker without a notification.
    poll: Duration = timedelta(seconds=10)
    # Seconds without a step, and 20 steps of the usual length, after which a trainer is killed.
    hang: Duration = timedelta(minutes=10)
    max_infra_failures: int = Field(3, ge=1)  # executions lost to machines before a job fails
    # Seconds after the first lost execution; doubled with each further one, up to a minute.
    retry_delay: Delay = timedelta(seconds=2)
    # Seconds for the trainer to end its step and write a checkpoint before it is killed.
    stop_grace: Duration = timedelta(seconds=60)
    trainer_command: list[str] = Field([sys.executable, "-m", "falqon_core"], min_length=1)
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of a trainer process; empty: all cores of its slot"
    )
    calibrate: bool = Field(
        True,
        description=(
            "a new worker measures a short training while it waits for its first job, "
            "for the first estimates"
        ),
    )
    slots: int = Field(
        1,
        ge=1,
        le=64,
        description=(
            "parts into which a CPU that trains is divided; each counts as a GPU does. On a GPU "
            "its cards are what counts"
        ),
    )
    cards: tuple[NonNegativeInt, ...] | None = Field(
        None,
        min_length=1,
        description=(
            "cards of this machine, or slots of its CPU, that its workers may use, as the driver "
            "counts them; all, unless set"
        ),
    )
    events_kept: KeptFor = Field(
        None,
        description=(
            "events and metrics of jobs that ended longer ago are removed, but for the last event; "
            "empty: kept"
        ),
    )
    checkpoints_kept: KeptFor = Field(
        None,
        description=(
            "checkpoints of jobs that ended longer ago are removed, but for the best and the last, "
            "unless a project says otherwise; empty: kept"
        ),
    )
    models_kept: KeptFor = Field(
        None,
        description=(
            "fine-tuned models that were neither asked nor downloaded for so long are announced, "
            "and deleted a week later, unless a project says otherwise; empty: kept"
        ),
    )
    prices: Path | None = Field(
        None,
        description="JSON file with the prices of a device hour; empty: the included table",
    )
    token_prices: dict[str, TokenPrice] = Field(
        {},
        description=(
            "prices in dollars of a million tokens that a model reads and writes for requests, by "
            'model or base model; *: every other: {"qwen3-4b": {"input": "0.05", "output": "0.2"}}'
        ),
    )
    engine_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description=(
            "a server that speaks OpenAI's API and serves every model, such as "
            "http://10.0.0.7:8000; empty: workers load models on request"
        ),
    )
    engine_urls: dict[ModelPattern, EngineUrl] = Field(
        {},
        description=(
            "such servers for some models, by pattern, of which the first that fits counts: "
            '{"ft:qwen3-*": "http://10.0.0.8:8000"}; others as engine_url says'
        ),
    )
    engine_key: SecretStr | None = Field(
        None, description="API key of that server, or of all of these"
    )
    engine_answers: int = Field(
        64, ge=1, le=100_000, description="concurrent answers of that server per API process"
    )
    judge_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description=(
            "a server that speaks OpenAI's API and whose models judge answers of evaluations, such "
            "as https://api.openai.com; it is sent rows and answers of every project that names "
            "one; empty: none"
        ),
    )
    judge_key: SecretStr | None = Field(None, description="API key of that server")
    judge_models: list[str] = Field(
        [], description="its models that a grader `score_model` may name"
    )
    upstream_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description=(
            "a server that speaks OpenAI's API, such as https://api.openai.com, which answers the "
            "names that stand for upstream:MODEL; empty: none"
        ),
    )
    upstream_key: SecretStr | None = Field(None, description="API key of that server")
    engine_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description=(
            "address that a worker's engines listen at and the API asks; auto: this machine's own"
        ),
    )
    # Seconds for a worker to load a model; after that the caller gets an error to retry.
    engine_wait: Duration = timedelta(seconds=60)
    # Seconds without a request after which a model is unloaded.
    engine_idle: Duration = timedelta(minutes=10)
    alive_file: Path | None = Field(
        None, description="a worker touches it while it moves, for health checks; empty: none"
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="first port tried for a worker's Prometheus metrics; empty: none",
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address of these metrics for Prometheus"
    )
    api_metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="port of an API's metrics for Prometheus, without a key; empty: none",
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector for traces; empty: none",
    )
    device: str = Field(
        "auto",
        description=(
            "price table entry of the device that trains; auto: the card that the driver names, "
            "else the CPU"
        ),
    )

    @model_validator(mode="after")
    def _hear_the_worker_in_time(self) -> Self:
        if self.lease < MIN_HEARTBEATS * self.heartbeat:
            lease = self.lease.total_seconds()
            heartbeat = self.heartbeat.total_seconds()
            raise ValueError(
                f"FALQON_LEASE is {lease:g} s and FALQON_HEARTBEAT {heartbeat:g} s: a lease must "
                f"last {MIN_HEARTBEATS} heartbeats or more, or healthy workers lose their jobs."
            )
        return self

    @model_validator(mode="after")
    def _know_the_client(self) -> Self:
        if self.oidc_issuer and not self.oidc_client_id:
            raise ValueError(
                "FALQON_OIDC_ISSUER needs FALQON_OIDC_CLIENT_ID: register this service at the "
                "identity provider."
            )
        return self

    @model_validator(mode="after")
    def _know_where_judges_are(self) -> Self:
        if self.judge_models and not self.judge_url:
            raise ValueError(
                "FALQON_JUDGE_MODELS needs FALQON_JUDGE_URL, the server of the models."
            )
        return self

    def engine_url_of(self, model_id: str) -> str:
        """Return the operator's server that serves a model; empty where workers load it."""
        urls = (url for pattern, url in self.engine_urls.items() if fnmatchcase(model_id, pattern))
        return next(urls, self.engine_url).rstrip("/")

    @cached_property
    def provider_name(self) -> str:
        """Return the identity provider's name for people; empty where there is none."""
        return self.oidc_issuer and (self.oidc_name or urlsplit(self.oidc_issuer).netloc)

    @cached_property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'falqon.db'}"

    @cached_property
    def valkey_socket(self) -> Path:
        return self.data_dir.resolve() / "valkey.sock"

    @cached_property
    def broker_url(self) -> str:
        """Return the address of Redis as kombu spells it."""
        return self.resolved_redis_url.replace("unix://", "redis+socket://", 1)

    @cached_property
    def resolved_redis_url(self) -> str:
        """Return the address of Redis as redis-py spells it."""
        return self.redis_url or f"unix://{self.valkey_socket}"

    @cached_property
    def resolved_storage_url(self) -> str:
        return self.storage_url or (self.data_dir.resolve() / "objects").as_uri()

    @cached_property
    def storage_folder(self) -> Path | None:
        """Return the folder that is the storage, if it is one."""
        parts = urlsplit(self.resolved_storage_url)
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        return None

    @cached_property
    def work_dir(self) -> Path:
        """Return the worker's scratch folder on this machine: staged inputs and outputs of
        attempts. Nothing here is the only copy.
        """
        return self.data_dir.resolve() / "work"

    @cached_property
    def reports_dir(self) -> Path:
        """Return the folder for event files and offline runs of experiment trackers."""
        return self.data_dir.resolve() / "reports"


class WrongSettings(SystemExit):
    """Wrong settings end the process with one sentence; a traceback would hide it."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))


def load_settings() -> Settings:
    """Read the settings of this process. Raises `WrongSettings` for invalid ones."""
    env_file.read_into(os.environ)
    if sentences := _misspelled([*os.environ, *dotenv_values(env_file.ENV_FILE)]):
        raise WrongSettings(sentences)
    try:
        settings = Settings()
    except SettingsError as error:  # its message quotes the field, and no part of the value
        field = str(error).split('"')[1]
        sentence = f'{variable_of(field)}: this must be JSON, such as ["one", "two"].'
        raise WrongSettings([sentence]) from None
    except ValidationError as error:
        raise WrongSettings([_sentence(fault) for fault in error.errors()]) from None
    if settings.device != "auto" and find_device(settings.device) is None:
        devices = ", ".join(sorted(DEVICES))
        raise WrongSettings([f"FALQON_DEVICE is '{settings.device}'; known are auto, {devices}"])
    return settings


def variable_of(field: str) -> str:
    """Return the environment variable that a field of the settings is read from."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, str):
        return alias
    return f"{PREFIX}{field.upper()}"


def _misspelled(names: list[str]) -> list[str]:
    """Return a sentence for each variable that is nearly a setting; warn of the others."""
    variables = {variable_of(field) for field in Settings.model_fields}
    ours = {name for name in names if name.upper().startswith(PREFIX)}
    unknown = ours - {name for name in ours if name.upper() in variables | OF_CLIENT}
    endings = [name.removeprefix(PREFIX) for name in variables if name.startswith(PREFIX)]
    sentences = []
    for name in sorted(name for name in unknown if not OF_KUBERNETES.fullmatch(name)):
        sentence = f"{name} is not a setting of this service"
        if close := get_close_matches(
            name.upper().removeprefix(PREFIX), endings, 1, MIN_SIMILARITY
        ):
            sentences.append(f"{sentence}; did you mean {PREFIX}{close[0]}?")
        else:
            _warn(f"{sentence} and has no effect")
    return sentences


@cache
def _warn(sentence: str) -> None:
    """Print a warning once, before logging is configured, and not on standard output."""
    sys.stderr.write(f"{sentence}\n")


def _sentence(fault: ErrorDetails) -> str:
    """Return the message for one of pydantic's errors, with the operator's variable."""
    message = in_plain_words(fault)
    if not fault["loc"]:
        return message
    field = str(fault["loc"][0])
    name = variable_of(field) if field in Settings.model_fields else field
    if fault["type"] == "time_delta_parsing":
        message = "a duration is written as PT0.5S, PT30S, PT5M or PT1H"
    return f"{name}: {message}"
