"""One file a screen. A screen asks the services that the API asks, and has no rule of its own."""

from fastapi import APIRouter

from app.web.pages import elsewhere, jobs, sign_in

router = APIRouter(include_in_schema=False)
for screen in (sign_in, elsewhere, jobs):
    router.include_router(screen.router)
router.include_router(jobs.streams)
