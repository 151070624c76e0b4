"""The commands that speak HTTP to a service, here or elsewhere."""

import typer

from app.client import aliases, batches, files, keys, models, projects, webhooks
from app.client.agents.command import connect, mcp
from app.client.chat import chat
from app.client.command import command
from app.client.compare import compare
from app.client.download import download
from app.client.evaluate import evaluate
from app.client.jobs import commands as jobs
from app.client.move import commands as move
from app.client.open_page import open_page
from app.client.prices import prices
from app.client.publish import publish
from app.client.status import status
from app.client.workers import drain, workers

PANEL = "Use a service, on this machine or another"


def join(app: typer.Typer) -> None:
    for name, group in (
        ("files", files),
        ("jobs", jobs),
        ("models", models),
        ("batches", batches),
        ("aliases", aliases),
        ("keys", keys),
        ("projects", projects),
        ("webhooks", webhooks),
        ("move", move),
    ):
        app.add_typer(group.app, name=name, rich_help_panel=PANEL)
    command(app, "chat", "falqon chat MODEL --once 'Where is my order?'", panel=PANEL)(chat)
    command(
        app,
        "compare",
        "falqon compare --model falqon-tiny --file train.jsonl --methods falqon,lora --watch",
        panel=PANEL,
    )(compare)
    command(app, "download", "falqon download MODEL --output model", panel=PANEL)(download)
    command(app, "evaluate", "falqon evaluate JOB --grader same", panel=PANEL)(evaluate)
    command(app, "mcp", "falqon mcp", panel=PANEL, connect=connect)(mcp)
    command(app, "open", "falqon open @last", panel=PANEL)(open_page)
    command(app, "prices", "falqon prices", panel=PANEL)(prices)
    command(app, "publish", "falqon publish MODEL hf:acme/support --private", panel=PANEL)(publish)
    command(app, "status", "falqon status", panel=PANEL)(status)
    command(app, "drain", "falqon drain WORKER --now", panel=PANEL)(drain)
    command(app, "workers", "falqon workers", panel=PANEL)(workers)
