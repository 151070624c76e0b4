"""What browsers load beside a page: files of our own, and three packages of node_modules. Nothing
comes from another site.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

OWN = Path(__file__).parent / "static"
PACKAGES = Path(__file__).parents[2] / "node_modules"
FOLDERS = {
    "/assets/htmx": "htmx.org/dist",
    "/assets/uplot": "uplot/dist",
    "/docs/assets": "swagger-ui-dist",
}
NEEDED = ("htmx.org/dist/htmx.min.js", "uplot/dist/uPlot.esm.js")


class Assets(StaticFiles):
    """Files that a browser asks for each time, answered with 304 while nothing has changed: a new
    version is seen at once.
    """

    async def check_config(self) -> None:
        """Accept a folder that is not there, which is no fault of the request: nothing is found in
        it, and the page says how to get it.
        """

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.setdefault("cache-control", "no-cache")
        return response


def mount(app: FastAPI) -> None:
    app.mount("/static", Assets(directory=OWN))
    for url, folder in FOLDERS.items():
        app.mount(url, Assets(directory=PACKAGES / folder, check_dir=False))


def are_installed() -> bool:
    return all((PACKAGES / name).exists() for name in NEEDED)
