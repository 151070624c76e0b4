import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from app.base.terminal import one_line
from app.client import text
from app.client.api import Json, segment
from app.client.command import Client, ModelId, option
from app.client.errors import Refused
from app.client.fetching import Block, Moved, RemoteObject, fetch

UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")


def download(
    client: Client,
    model: ModelId,
    output: Annotated[
        Path | None, option(help="Folder to write to. Default: one named after the model.")
    ] = None,
) -> None:
    """Download every file of a model, each proved by its sha256. Run it again to go on after an
    interruption.
    """
    manifest = client.api.get(f"/models/{segment(model)}/artifacts/manifest.json")
    folder = output or Path(folder_name(model))
    done = download_files(client, model, manifest, folder)
    client.out.say(
        f"{folder}: {len(manifest['files'])} files, {text.size(done)}, every sha256 as the "
        "service says."
    )
    client.out.show(manifest)


def folder_name(model: str) -> str:
    return UNSAFE_CHARACTERS.sub("-", model).strip(".-") or "model"


def download_files(client: Client, model: str, manifest: Json, folder: Path) -> int:
    """All that the manifest names, whole and proved; how many bytes that is."""
    path = f"/models/{segment(model)}/artifacts"
    targets = [(_source(path, file), _inside(folder, file["name"])) for file in manifest["files"]]
    done = 0
    with transfer(client, model, manifest["bytes"]) as moved:
        for source, target in targets:
            fetch(client.api, source, target, _behind(done, moved))
            done += source.bytes
    return done


@contextmanager
def transfer(client: Client, what: str, total: int) -> Iterator[Moved]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    quiet = client.out.as_json or not client.out.console.is_terminal
    with Progress(*columns, console=client.out.console, transient=True, disable=quiet) as progress:
        bar = progress.add_task(one_line(what), total=total)
        yield lambda there: progress.update(bar, completed=there)


def _behind(before: int, moved: Moved) -> Moved:
    return lambda there: moved(before + there)


def _source(path: str, file: Json) -> RemoteObject:
    size = file["bytes"]
    step = file["block_bytes"]
    hashes = file["block_sha256"]
    if step < 1 or len(hashes) != max(1, -(-size // step)):
        raise Refused(
            f"The service says of {file['name']!r} that it has {size} bytes, and names "
            f"{len(hashes)} blocks of {step}."
        )
    blocks = [
        Block(start, min(size, start + step), sha256)
        for start, sha256 in zip(range(0, max(1, size), step), hashes, strict=True)
    ]
    return RemoteObject(f"{path}/{file['url']}", size, file["sha256"], blocks)


def _inside(folder: Path, name: str) -> Path:
    """The service names the files; it does not choose where on this machine they land."""
    parts = PurePosixPath(name).parts
    target = folder.joinpath(*parts)
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or one_line(name) != name:
        raise Refused(f"The service offers a file named {name!r}; no such name is written here.")
    if not target.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{target} leads out of {folder} by a link.", "Choose another --output.")
    return target


def file_content(client: Client, file: Json, target: Path) -> None:
    path = f"/files/{segment(file['id'])}/content"
    with transfer(client, target.name, file["bytes"]) as moved:
        fetch(
            client.api,
            RemoteObject.whole(path, file["bytes"], client.api.sha256_of(path)),
            target,
            moved,
        )
