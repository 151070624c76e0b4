"""Files that browsers load beside a page: our own, and those of three npm packages. Nothing comes
from another site.

Pages name each file under the hash of its folder, so a browser keeps it for good and asks for the
files of another version by another address.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC_FOLDER = Path(__file__).parent / "static"
# `make wheel` copies the packages' files into the wheel; a checkout has them from npm.
BUNDLED_FOLDER = Path(__file__).parent / "packages"
PACKAGES_FOLDER = (
    BUNDLED_FOLDER if BUNDLED_FOLDER.is_dir() else Path(__file__).parents[2] / "node_modules"
)
PACKAGE_FILES = (
    "htmx.org/dist/htmx.min.js",
    "htmx.org/dist/ext/hx-sse.min.js",
    "uplot/dist/uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css",
    "swagger-ui-dist/swagger-ui-bundle.js",
    "swagger-ui-dist/swagger-ui.css",
)
FOLDERS = {
    "/static": STATIC_FOLDER,
    "/assets/htmx": PACKAGES_FOLDER / "htmx.org" / "dist",
    "/assets/uplot": PACKAGES_FOLDER / "uplot" / "dist",
    "/docs/assets": PACKAGES_FOLDER / "swagger-ui-dist",
}
HASH_CHARACTERS = 12
HASHED_PATH = re.compile(rf"([0-9a-f]{{{HASH_CHARACTERS}}})/(.+)")


class Assets(StaticFiles):
    """The files of a folder. Under its hash they never change; under another one, of a page that an
    older version made, and without one a browser asks each time.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, check_dir=False)
        self._folder = folder

    async def check_config(self) -> None:
        """Accept a folder that is not there, which is no fault of the request: nothing is found in
        it, and the page says how to get it.
        """

    async def get_response(self, path: str, scope: Scope) -> Response:
        match = HASHED_PATH.fullmatch(path)
        response = await super().get_response(match[2] if match else path, scope)
        is_current = match is not None and match[1] == hash_of(self._folder)
        kept = "public, max-age=31536000, immutable" if is_current else "no-cache"
        response.headers["cache-control"] = kept
        return response


def mount(app: FastAPI) -> None:
    for url, folder in FOLDERS.items():
        app.mount(url, Assets(folder))


def asset(path: str) -> str:
    """Return the address that a page gives for a file, such as `base.css` in `/static/`."""
    url = next(url for url in FOLDERS if path.startswith(f"{url}/"))
    folder = FOLDERS[url]
    return f"{url}/{hash_of(folder)}{path.removeprefix(url)}" if folder.is_dir() else path


@cache
def hash_of(folder: Path) -> str:
    """Hash the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:HASH_CHARACTERS]


def are_installed() -> bool:
    return all((PACKAGES_FOLDER / name).exists() for name in PACKAGE_FILES)
