"""Pages for browsers at addresses without a route."""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from app.base.errors import ApiError
from app.http import error_handlers
from app.web.visitor import error_page, is_of_script

OF_PROGRAMS = ("/v1", "/hub", "/static", "/assets", "/docs/assets")  # they are answered with JSON
SENTENCES = {
    404: "This address has no page.",
    405: "This address only accepts forms. Open the page with the form.",
    413: "The form is too large.",
}


def install(app: FastAPI) -> None:
    """Ask for error pages beside the answers of `error_handlers`, which come first."""
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = SENTENCES.get(error.status_code)
    if sentence is None or not _is_for_reading(request):
        return error_handlers.on_http_exception(request, error)
    refusal = ApiError(sentence)
    refusal.status = error.status_code
    return await error_page(request, refusal)


def _is_for_reading(request: Request) -> bool:
    path = request.url.path
    is_of_programs = any(path == part or path.startswith(f"{part}/") for part in OF_PROGRAMS)
    accepts_html = "text/html" in request.headers.get("accept", "")
    return accepts_html and not is_of_programs and not is_of_script(request)
