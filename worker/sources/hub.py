"""Data sets on the Hugging Face Hub: which files a split has, at a commit that stays the same."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from huggingface_hub import constants

from app.files.addresses import HubAddress
from worker.sources.download import Downloader, SourceRefused, SourceUnavailable

# The first format that a split has is read.
FORMATS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
MAX_LISTED_BYTES = 16 * 2**20
MAX_PAGES = 100
MAX_FILES = 10_000
MAX_NAMED = 20
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


class HubDataset(NamedTuple):
    revision: str  # the commit
    paths: list[str]
    urls: list[str]


def find_files(
    downloader: Downloader,
    address: HubAddress,
    headers: Mapping[str, str],
    endpoint: str,
    revision: str | None = None,
) -> HubDataset:
    """Return the files that an address means; at the commit `revision`, where that is known."""
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    repository = f"{endpoint}/api/datasets/{address.repository}"
    if revision is None:
        name = quote(unquote(address.revision), safe="")
        revision = str(_read(downloader, f"{repository}/revision/{name}", headers)[0]["sha"])
    paths = choose_files(_paths(downloader, f"{repository}/tree/{revision}", headers), address.path)
    resolve = f"{endpoint}/datasets/{address.repository}/resolve/{revision}"
    return HubDataset(revision, paths, [f"{resolve}/{quote(path)}" for path in paths])


def choose_files(paths: list[str], target: str) -> list[str]:
    """Return the files of a split, or the very file that the target names. Raises `SourceRefused`,
    which names what there is.
    """
    if target in paths:
        return [target]
    data = [path for path in paths if PurePosixPath(path).suffix.lower() in FORMATS]
    folder, _, split = target.rpartition("/")
    if not target and len(data) == 1:
        return data
    matching = [path for path in data if split and _is_of(path, folder, split)]
    for suffix in FORMATS:
        chosen = sorted(path for path in matching if path.lower().endswith(suffix))
        folders = {str(PurePosixPath(path).parent) for path in chosen}
        if len(folders) == 1:
            return chosen
        if folders:
            examples = ", ".join(f"{name}/{split}" for name in sorted(folders)[:MAX_NAMED])
            raise SourceRefused(
                "source_ambiguous", f"It has several files of '{split}'; say which: {examples}."
            )
    listed = ", ".join(data[:MAX_NAMED]) or "no Parquet, JSON or CSV"
    more = f" and {len(data) - MAX_NAMED} more" if len(data) > MAX_NAMED else ""
    reason = f"It has no file of '{target}'" if target else "Name a split or a file"
    raise SourceRefused("source_not_found", f"{reason}; it has {listed}{more}.")


def _is_of(path: str, folder: str, split: str) -> bool:
    """Return True if a file belongs to a split: its name or its folder has the split as a word."""
    parts = PurePosixPath(path).parts
    if folder and not path.startswith(f"{folder}/") and f"/{folder}/" not in path:
        return False
    words = rf"(?:^|[._-]){re.escape(split)}(?:[._-]|\d|$)"
    return split in parts[:-1] or re.search(words, parts[-1]) is not None


def _paths(downloader: Downloader, url: str, headers: Mapping[str, str]) -> list[str]:
    paths: list[str] = []
    page = f"{url}?recursive=true"
    for _ in range(MAX_PAGES):
        entries, following = _read(downloader, page, headers)
        paths += [str(entry["path"]) for entry in entries if entry["type"] == "file"]
        if following is None or len(paths) > MAX_FILES:
            break
        if not following.startswith(url):  # it would be sent the token
            raise SourceUnavailable("the list of its files goes on elsewhere")
        page = following
    if len(paths) > MAX_FILES:
        raise SourceRefused("source_too_large", f"It has more than {MAX_FILES} files.")
    return paths


def _read(downloader: Downloader, url: str, headers: Mapping[str, str]) -> tuple[Any, str | None]:
    content, link = downloader.read(url, headers, MAX_LISTED_BYTES)
    following = _NEXT.search(link)
    try:
        return json.loads(content), following[1] if following else None
    except ValueError as error:
        raise SourceUnavailable("the answer is not JSON") from error
