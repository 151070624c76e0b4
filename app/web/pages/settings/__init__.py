"""Settings: access rights, names, prices and notifications, seven screens under one heading."""

from fastapi import APIRouter

from app.web.pages.settings import aliases, keys, people, prices, projects, webhooks, worker_tokens

router = APIRouter()
streams = APIRouter()
for screen in (projects, keys, aliases, prices, webhooks, people, worker_tokens):
    router.include_router(screen.router)
streams.include_router(webhooks.streams)
