"""One file a screen. A screen asks the services that the API asks, and has no rule of its own."""

from fastapi import APIRouter

from app.web.pages import compare, elsewhere, job, job_actions, jobs, models, settings, sign_in, workers

router = APIRouter(include_in_schema=False)
# First: the address of a model may hold slashes, so its page would take those of its parts.
for screen_with_streams in (jobs, job, models, workers, settings):
    router.include_router(screen_with_streams.streams)
for screen in (sign_in, elsewhere, jobs, job, job_actions, compare, models, workers, settings):
    router.include_router(screen.router)
