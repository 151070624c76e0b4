"""One file a screen. A screen asks the services that the API asks, and has no rule of its own."""

from fastapi import APIRouter

from app.web.pages import compare, data, elsewhere, job, job_actions, jobs, new_job, sign_in, workers

router = APIRouter(include_in_schema=False)
for screen in (sign_in, elsewhere, jobs, new_job, job, job_actions, compare, data, workers):
    router.include_router(screen.router)
router.include_router(data.uploads)
for screen_with_streams in (jobs, job, workers):
    router.include_router(screen_with_streams.streams)
