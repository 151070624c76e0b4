"""Settings: access rights, prices and notifications, five screens under one heading."""

from fastapi import APIRouter

from app.web.pages.settings import keys, prices, projects, webhooks, worker_tokens

router = APIRouter()
streams = APIRouter()
for screen in (projects, keys, prices, webhooks, worker_tokens):
    router.include_router(screen.router)
streams.include_router(webhooks.streams)
