import os
import re
import sys
from datetime import timedelta
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
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
from app.base.setting_checks import check_origin, check_proxies
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.devices import DEVICES

PREFIX = "FALQON_"
# What the client commands read, and a worker that sees only the API.
OF_CLIENT = {"FALQON_API_KEY", "FALQON_BASE_URL", "FALQON_WORKER_TOKEN"}
# Kubernetes tells every pod of a service named falqon or falqon-… by such variables.
OF_KUBERNETES = re.compile(
    r"FALQON_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
NEARLY = 0.75  # of 1 for equal names; the prefix, which all share, is not compared
MIN_HEARTBEATS = 2  # in a lease: one that comes late must not cost the job
MAX_DURATION = timedelta(days=1)
MAX_SOCKET_PATH_BYTES = 107  # the kernel's limit for a Unix socket's name


Duration = Annotated[timedelta, Field(gt=timedelta(0), le=MAX_DURATION)]
Delay = Annotated[timedelta, Field(ge=timedelta(0), le=MAX_DURATION)]


class Settings(BaseSettings):
    """Everything the service can be told from outside; each field is an environment variable
    `FALQON_…` or the alias beside it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=env_file.NAME,
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
    redis_url: str = Field(
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

    requests_per_minute: int = Field(
        6000,
        ge=1,
        le=1_000_000,
        description="of each API key, unless its project has a limit of its own",
    )
    tokens_per_minute: int = Field(
        6_000_000,
        ge=1,
        le=1_000_000_000,
        description="that models read and write for each API key",
    )
    answers_per_key: int = Field(
        1024, ge=1, le=1_000_000, description="that a key waits for at once, in each API process"
    )
    wrong_keys_per_minute: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="of each address, before unknown keys from there must wait",
    )
    hosts: list[str] = Field(
        [], description="names that requests may call this service by (the Host header); empty: any"
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
            "proxies whose X-Forwarded-For and -Proto are believed: addresses and networks, with "
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
        description="a request's head that is not whole by then is refused",
    )
    body_timeout: timedelta = Field(
        timedelta(seconds=60),
        gt=timedelta(0),
        description="a body of which nothing arrives for so long is refused",
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
        description="where hf:// sources and base models come from; empty: the Hugging Face Hub",
    )

    model_aliases: dict[str, str] = Field(
        {},
        description=(
            "other names that jobs may call models by, for code that names OpenAI's: "
            '{"gpt-4o-mini-2024-07-18": "qwen3-4b"}'
        ),
    )

    download_redirects: bool = Field(
        True,
        description=(
            "downloads are sent on to the object store; false where clients cannot reach it: then "
            "the API carries the bytes"
        ),
    )
    # of a file that comes in one request; both as the API this one replaces
    max_file_bytes: int = Field(512 * 2**20, ge=1)
    max_upload_bytes: int = Field(8 * 2**30, ge=1)  # of a file that comes in parts
    lease: Duration = timedelta(seconds=60)  # a worker that stays silent this long has lost its job
    heartbeat: Duration = timedelta(seconds=10)
    # idle workers look for jobs this often even if nobody notifies them
    poll: Duration = timedelta(seconds=10)
    # a trainer without a step for so long, and for 20 steps of the usual length, is killed
    hang: Duration = timedelta(minutes=10)
    max_infra_failures: int = Field(3, ge=1)  # executions lost to machines before a job is given up
    # after a first lost execution; doubled with each further one, up to a minute
    retry_delay: Delay = timedelta(seconds=2)
    # for the trainer to end its step and write a checkpoint before it is killed
    stop_grace: Duration = timedelta(seconds=60)
    trainer_command: list[str] = Field([sys.executable, "-m", "falqon_core"], min_length=1)
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of a trainer process; empty: all cores of its slot"
    )
    calibrate: bool = Field(
        True,
        description=(
            "whether a new worker measures a short training while it waits for its first job, "
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
            "which cards of this machine, or slots of its CPU, its workers may use, as the driver "
            "counts them; all, unless set"
        ),
    )
    events_kept: timedelta | None = Field(
        None,
        ge=timedelta(days=1),
        le=timedelta(days=36_500),
        description=(
            "events and metrics of jobs that ended longer ago are removed, but for the last event; "
            "empty: kept"
        ),
    )
    prices: Path | None = Field(
        None,
        description=(
            "JSON file with what an hour of a device costs here; empty: the table that comes along"
        ),
    )
    engine_url: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        description=(
            "a server that speaks OpenAI's API and answers for every model, such as "
            "http://10.0.0.7:8000; empty: workers load models when they are asked"
        ),
    )
    engine_key: SecretStr | None = Field(None, description="API key of that server")
    engine_answers: int = Field(
        64, ge=1, le=100_000, description="that each API process has that server give at once"
    )
    engine_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description=(
            "address that a worker's engines listen at and the API asks; auto: this machine's own"
        ),
    )
    # for a worker to load a model; then whoever asked is sent away for now
    engine_wait: Duration = timedelta(seconds=60)
    # a model that nobody has asked for so long is unloaded
    engine_idle: Duration = timedelta(minutes=10)
    alive_file: Path | None = Field(
        None, description="a worker touches it while it moves, for health checks; empty: none"
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="where a worker answers Prometheus: the first free port from here on; "
        "empty: nowhere",
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address that a worker answers Prometheus at"
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s]+)?$",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry's collector, which gets traces; empty: none",
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

    def model_named(self, name: str) -> str:
        """Return the model that a name stands for, which is itself where it is no alias."""
        return self.model_aliases.get(name, name)

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
        """The folder that is the storage, where it is one."""
        parts = urlsplit(self.resolved_storage_url)
        if parts.scheme == "file":
            return Path(unquote(parts.path))
        return None

    @cached_property
    def work_dir(self) -> Path:
        """Scratch of the worker on this machine: staged inputs and outputs of attempts. Nothing
        here is the only copy.
        """
        return self.data_dir.resolve() / "work"

    @cached_property
    def reports_dir(self) -> Path:
        """Return the folder where experiment trackers leave event files and offline runs."""
        return self.data_dir.resolve() / "reports"


class WrongSettings(SystemExit):
    """Ends the process with a sentence for whoever started it; a traceback would hide it."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))


def load_settings() -> Settings:
    """Read the settings of this process. Raises `WrongSettings` for what cannot be meant."""
    env_file.read_into(os.environ)
    if sentences := _misspelled([*os.environ, *dotenv_values(env_file.NAME)]):
        raise WrongSettings(sentences)
    try:
        settings = Settings()
    except SettingsError as error:  # its message quotes the field, and nothing of the value
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
    """Return a sentence for each variable that is nearly a setting; warn of a user's own."""
    variables = {variable_of(field) for field in Settings.model_fields}
    ours = {name for name in names if name.upper().startswith(PREFIX)}
    unknown = ours - {name for name in ours if name.upper() in variables | OF_CLIENT}
    endings = [name.removeprefix(PREFIX) for name in variables if name.startswith(PREFIX)]
    sentences = []
    for name in sorted(name for name in unknown if not OF_KUBERNETES.fullmatch(name)):
        sentence = f"{name} is no setting of this service"
        if close := get_close_matches(name.upper().removeprefix(PREFIX), endings, 1, NEARLY):
            sentences.append(f"{sentence}; did you mean {PREFIX}{close[0]}?")
        else:
            _warn(f"{sentence} and has no effect")
    return sentences


@cache
def _warn(sentence: str) -> None:
    """Say it once; before logging is configured, and not on the standard output of commands."""
    sys.stderr.write(f"{sentence}\n")


def _sentence(fault: ErrorDetails) -> str:
    """Say one of pydantic's faults with the name of the variable that an operator has set."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    field = str(fault["loc"][0])
    name = variable_of(field) if field in Settings.model_fields else field
    if fault["type"] == "time_delta_parsing":
        message = "a duration is written as PT0.5S, PT30S, PT5M or PT1H"
    return f"{name}: {message}"
