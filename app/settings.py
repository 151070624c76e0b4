import sys
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_SOCKET_PATH_BYTES = 107  # the kernel's limit for a Unix socket's name


class Settings(BaseSettings):
    """Everything the service can be told from outside; each field is an environment variable `FALQON_…` or the alias beside it."""

    model_config = SettingsConfigDict(env_prefix="FALQON_", env_file=".env", extra="ignore", populate_by_name=True)

    data_dir: Path = Field(Path(".falqon"), description="embedded database, objects, sockets, worker scratch")
    database_url: str = Field("", validation_alias="DATABASE_URL", description="empty: SQLite in data_dir")
    redis_url: str = Field("", validation_alias="REDIS_URL", description="empty: the embedded Valkey's socket in data_dir")
    storage_url: str = Field("", validation_alias="STORAGE_URL", description="file:///…, s3://…; empty: data_dir/objects")

    admin_key: SecretStr | None = Field(None, description="API key with every right; empty: one is generated and shown once")
    session_secret: SecretStr | None = Field(
        None, description="signs the dashboard's cookie, webhook secrets derive from it; empty: generated into data_dir"
    )

    requests_per_minute: int = Field(6000, ge=1, le=1_000_000, description="of each API key, unless its project has a limit of its own")
    wrong_keys_per_minute: int = Field(10, ge=1, le=1_000_000, description="of each address, before unknown keys from there must wait")
    hosts: list[str] = Field([], description="names that requests may call this service by (the Host header); empty: any")
    forwarded_allow_ips: str = Field(
        "",
        validation_alias="FORWARDED_ALLOW_IPS",
        description="proxies whose X-Forwarded-For and -Proto are believed: addresses and networks, with commas; empty: none",
    )
    max_connections: int = Field(
        5000, ge=1, le=1_000_000, description="open at once in each API process; no more than half of its open files"
    )
    head_timeout: timedelta = Field(
        timedelta(seconds=10), gt=timedelta(0), description="a request's head that is not whole by then is refused"
    )
    body_timeout: timedelta = Field(
        timedelta(seconds=60), gt=timedelta(0), description="a body of which nothing arrives for so long is refused"
    )
    webhook_networks: list[IPvAnyNetwork] = Field(
        [], description="networks that webhooks may reach although they are not public, also without TLS, such as 127.0.0.0/8"
    )

    download_redirects: bool = Field(
        True, description="downloads are sent on to the object store; false where clients cannot reach it: then the API carries the bytes"
    )
    max_file_bytes: int = 512 * 2**20  # of a file that comes in one request; both as the API this one replaces
    max_upload_bytes: int = 8 * 2**30  # of a file that comes in parts
    lease: timedelta = timedelta(seconds=60)  # a worker that stays silent this long has lost its job
    heartbeat: timedelta = timedelta(seconds=10)
    poll: timedelta = timedelta(seconds=10)  # idle workers look for jobs this often even if nobody rings
    hang: timedelta = timedelta(minutes=10)  # a trainer without a step for so long, and for 20 steps of the usual length, is killed
    max_infra_failures: int = 3  # executions lost to machines before a job is given up
    stop_grace: timedelta = timedelta(seconds=60)  # for the trainer to end its step and write a checkpoint before it is killed
    trainer_command: list[str] = [sys.executable, "-m", "falqon_core"]
    num_threads: int | None = Field(None, description="CPU threads of the trainer; empty: all cores")
    prices: Path | None = Field(None, description="JSON file with what an hour of a device costs here; empty: the table that comes along")
    device: str = Field("auto", description="price table entry of the device that trains; auto: the CPU")

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _refuse_names(cls, value: str) -> str:
        """Believe nobody by a name: a connection has an address only."""
        for proxy in filter(None, map(str.strip, value.split(","))):
            try:
                ip_network("0.0.0.0/0" if proxy == "*" else proxy)
            except ValueError as error:
                raise ValueError(f"{error}; FORWARDED_ALLOW_IPS takes addresses of proxies, such as 10.0.0.7, and networks") from None
        return value.strip(", ")

    @cached_property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'falqon.db'}"

    @cached_property
    def valkey_socket(self) -> Path:
        return self.data_dir.resolve() / "valkey.sock"

    @cached_property
    def broker_url(self) -> str:
        """As kombu spells it."""
        return self.resolved_redis_url.replace("unix://", "redis+socket://", 1)

    @cached_property
    def resolved_redis_url(self) -> str:
        """As redis-py spells it."""
        return self.redis_url or f"unix://{self.valkey_socket}"

    @cached_property
    def resolved_storage_url(self) -> str:
        return self.storage_url or (self.data_dir.resolve() / "objects").as_uri()

    @cached_property
    def work_dir(self) -> Path:
        """Scratch of the worker on this machine: staged inputs and outputs of attempts. Nothing here is the only copy."""
        return self.data_dir.resolve() / "work"

    @cached_property
    def reports_dir(self) -> Path:
        """Where experiment trackers leave what they keep on the worker's machine: TensorBoard's event files, W&B's offline runs."""
        return self.data_dir.resolve() / "reports"
