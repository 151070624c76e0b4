"""`/docs` without the internet: Swagger UI from node_modules, started by a script of our own, so that nothing is inline."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from app.web.headers import page_headers
from app.web.pages import templates

ASSETS = Path(__file__).parents[2] / "node_modules" / "swagger-ui-dist"


class Assets(StaticFiles):
    async def check_config(self) -> None:
        """A folder that is not there is no fault of the request: nothing is found in it, and the page says how to get it."""


router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs_page(request: Request) -> Response:
    if not (ASSETS / "swagger-ui-bundle.js").exists():
        return templates.TemplateResponse(request, "docs_missing.html", status_code=503, headers=page_headers())
    return templates.TemplateResponse(request, "docs.html", headers=page_headers(font_src="'self' data:"))
