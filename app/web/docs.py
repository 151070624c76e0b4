"""`/docs` without the internet: Swagger UI from node_modules, started by a script of our own, so
that nothing is inline.
"""

from fastapi import APIRouter, Request, Response

from app.web import assets
from app.web.headers import page_headers
from app.web.rendering import templates

router = APIRouter(include_in_schema=False)


@router.api_route("/docs", methods=["GET", "HEAD"])
def docs_page(request: Request) -> Response:
    if not (assets.PACKAGES_FOLDER / "swagger-ui-dist" / "swagger-ui-bundle.js").exists():
        return templates.TemplateResponse(
            request, "docs_missing.html", status_code=503, headers=page_headers()
        )
    return templates.TemplateResponse(
        request, "docs.html", headers=page_headers(font_src="'self' data:")
    )
