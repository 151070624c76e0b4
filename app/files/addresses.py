"""Addresses of records: `hf://`, `s3://` and `https://`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from app.base.errors import InvalidRequest
from app.base.outbound.addresses import AddressRefused, Networks, parse_target

MAX_ADDRESS = 2048
FORMS = "hf://owner/name@revision/split, s3://bucket/key or https://host/path"
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"(?:datasets/)?({_HUB_NAME}/{_HUB_NAME})(?:@([^/\s]{{1,255}}))?(?:/(.+))?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# Used as a path, it stays below its folder.
_PATH = re.compile(r"(?!.*(?:^|/)\.{0,2}(?:/|$))[^\x00-\x1f\x7f\\?#%]{1,1024}")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Data set on the Hugging Face Hub: a split of it, or one of its files."""

    repository: str
    revision: str
    path: str  # train, config/train, data/rows.jsonl; empty: the default


@dataclass(frozen=True, slots=True)
class S3Address:
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class WebAddress:
    url: str


Address = HubAddress | S3Address | WebAddress


def parse_address(text: str, networks: Networks) -> Address:
    """Parse an address. Raises `InvalidRequest` if it could never be read."""
    scheme, separator, rest = text.partition("://")
    match scheme if separator else "":
        case "hf":
            return _hub_address(rest)
        case "s3":
            return _s3_address(rest)
        case "https" | "http":
            try:
                target = parse_target(text, networks)
            except (AddressRefused, ValueError) as error:
                raise _refusal(f"{error}") from None
            if not target.host:
                raise _refusal("it names no host")
            return WebAddress(text.partition("#")[0])
    raise _refusal(f"write {FORMS}")


def without_query(text: str) -> str:
    """Return an address without its query, which may hold a signature."""
    return text.partition("?")[0].partition("#")[0]


def name_of(text: str) -> str:
    """Return the name of the file that is made of an address."""
    path = (
        urlsplit(without_query(text)).path if text.startswith("http") else text.partition("://")[2]
    )
    name = PurePosixPath(path).name
    if text.startswith("hf://"):
        repository, _, rest = path.partition("@")
        parts = [*repository.split("/")[1:], *rest.split("/")[1:]]
        name = "-".join(part for part in parts if part)
    stem = re.sub(r"[^\w.-]+", "-", PurePosixPath(name or "source").stem)[:200]
    return f"{stem}.jsonl"


def _hub_address(rest: str) -> HubAddress:
    match = _HUB.fullmatch(rest)
    path = (match[3] or "") if match else ""
    if match is None or (path and not _PATH.fullmatch(path)):
        raise _refusal("write hf://owner/name, hf://owner/name@revision/split or a file's path")
    return HubAddress(match[1], match[2] or "main", path.strip("/"))


def _s3_address(rest: str) -> S3Address:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or not _PATH.fullmatch(key):
        raise _refusal("write s3://bucket/key, the key of one object")
    return S3Address(bucket, key)


def _refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(f"source: {reason}.", param="source", code="invalid_source")
