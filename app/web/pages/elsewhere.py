"""Screens that are not there yet say with which command the same is done."""

from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from app.web.rendering import page
from app.web.visitor import PageRoute, Visitor


class Elsewhere(NamedTuple):
    title: str
    says: str
    command: str


SCREENS = {
    "/models": Elsewhere("Models", "Base models and the ones your jobs made.", "falqon models list"),
    "/settings": Elsewhere("Settings", "Projects and API keys.", "falqon projects list\nfalqon keys list"),
}

router = APIRouter(route_class=PageRoute)


@router.get("/models")
@router.get("/settings")
def elsewhere_page(request: Request, caller: Visitor) -> Response:
    return page(request, "elsewhere.html", caller, screen=SCREENS[request.url.path])
