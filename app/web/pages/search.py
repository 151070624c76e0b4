from typing import Annotated

from fastapi import Query, Request, Response

from app.base.database import NUM_SEARCHED
from app.catalogue import service as catalogue
from app.files import service as files
from app.http.dependencies import ServicesDep
from app.jobs import listing
from app.web.rendering import page
from app.web.text import state
from app.web.visitor import PageRouter, Visitor

MAX_FOUND = 10  # Results of each kind.

router = PageRouter()


@router.get("/search")
def search_page(
    services: ServicesDep,
    request: Request,
    caller: Visitor,
    q: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    """Look for a text in the names and ids of the project's newest jobs, files and models, and for
    an id in all.
    """
    text = q.strip()
    if not text:
        return page(request, "search.html", caller, q="", num_searched=NUM_SEARCHED)
    with services.database.read() as session:
        jobs = listing.search(session, caller.project_id, text, limit=MAX_FOUND)
        own_files = files.search(session, caller.project_id, text, limit=MAX_FOUND)
        models = catalogue.search(session, caller.project_id, text, limit=MAX_FOUND)
    return page(
        request,
        "search.html",
        caller,
        q=q,
        jobs=[(job, state(job)) for job in jobs],
        files=own_files,
        models=models,
        num_searched=NUM_SEARCHED,
    )
