"""One file a screen. A screen asks the services that the API asks, and has no rule of its own."""

from fastapi import APIRouter

from app.web.pages import (
    activity,
    answers,
    batches,
    compare,
    data,
    endings,
    evaluation,
    job,
    job_actions,
    jobs,
    models,
    new_job,
    playground,
    retention,
    search,
    settings,
    sign_in,
    single_sign_on,
    studies,
    usage,
    workers,
)

router = APIRouter(include_in_schema=False)
# First: the address of a model may hold slashes, so its page would take those of its parts.
for screen_with_streams in (
    jobs,
    endings,
    job,
    compare,
    studies,
    batches,
    models,
    workers,
    settings,
):
    router.include_router(screen_with_streams.streams)
for screen in (
    sign_in,
    single_sign_on,
    jobs,
    new_job,
    job,
    job_actions,
    evaluation,
    compare,
    studies,
    data,
    answers,
    batches,
    retention,
    models,
    playground,
    search,
    workers,
    usage,
    activity,
    settings,
):
    router.include_router(screen.router)
router.include_router(data.uploads)
router.include_router(playground.questions)
