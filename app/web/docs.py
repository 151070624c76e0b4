"""`/docs` without the internet: Swagger UI from node_modules, started by a script of our own, so that nothing is inline."""

from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.web.pages import HEADERS, templates

ASSETS = Path(__file__).parents[2] / "node_modules" / "swagger-ui-dist"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs_page(request: Request) -> Response:
    if not (ASSETS / "swagger-ui-bundle.js").exists():
        return templates.TemplateResponse(request, "docs_missing.html", status_code=503, headers=HEADERS)
    return templates.TemplateResponse(request, "docs.html", headers=HEADERS | {"content-security-policy": CSP})
