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
    "/jobs/new": Elsewhere(
        "New job",
        "A job is created from a JSONL file, one example a line. The command prints the estimate first.",
        "falqon jobs create --model falqon-tiny --file examples.jsonl --watch",
    ),
    "/data": Elsewhere("Data", "Uploaded files and what their check found.", "falqon files list"),
}

router = APIRouter(route_class=PageRoute)


@router.get("/jobs/new")
@router.get("/data")
def elsewhere_page(request: Request, caller: Visitor) -> Response:
    return page(request, "elsewhere.html", caller, screen=SCREENS[request.url.path])
