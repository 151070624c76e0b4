"""The tables that an import reads, brought to this machine one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.base.settings import Settings
from app.files.addresses import HubAddress, S3Address, parse_address
from falqon_core.contract.sources import HEAD_BYTES, SourceFormat, format_of
from worker.sources.download import Downloader
from worker.sources.hub import find_files
from worker.sources.s3 import url_of


@dataclass(frozen=True, slots=True)
class SourceTable:
    path: Path
    format: SourceFormat
    # The version that the address means now: a commit, or the server's own name for it.
    revision: str | None = None
    position: int = 0  # among the tables of a source
    num_tables: int = 1


@dataclass(frozen=True, slots=True)
class SourceReader:
    """`secret`: what the project has stored for this kind of source. `on_progress` is told of each
    table how much of it is here.
    """

    settings: Settings
    check: Callable[[], None]
    on_progress: Callable[[SourceTable, float], None]

    def fetch(
        self, source: str, secret: Mapping[str, Any], revision: str | None, folder: Path
    ) -> Iterator[SourceTable]:
        """Fetch each table when it is asked for. Raises `SourceRefused` and `SourceUnavailable`."""
        networks = self.settings.webhook_networks
        downloader = Downloader(networks, self.check)
        headers: dict[str, str] = {}
        match parse_address(source, networks):
            case HubAddress() as address:
                if secret:
                    headers["authorization"] = f"Bearer {secret['token']}"
                endpoint = self.settings.hub_endpoint
                dataset = find_files(downloader, address, headers, endpoint, revision)
                urls, paths, revision = dataset.urls, dataset.paths, dataset.revision
            case S3Address() as address:
                urls, paths, revision = [url_of(address, dict(secret))], [address.key], None
            case address:
                urls, paths, revision = [address.url], [urlsplit(address.url).path], None
        left = self.settings.max_upload_bytes
        for index, (url, path) in enumerate(zip(urls, paths, strict=True)):
            table = SourceTable(folder / "table", "jsonl", revision, index, len(urls))
            on_progress = partial(self.on_progress, table)
            version = downloader.fetch(url, table.path, headers, left, on_progress)
            left -= table.path.stat().st_size
            with table.path.open("rb") as file:
                format = format_of(path, file.read(HEAD_BYTES))
            yield replace(table, format=format, revision=revision or version)


def kind_of_secret(source: str) -> str:
    """Return by which kind of token a source is read."""
    return source.partition("://")[0]
