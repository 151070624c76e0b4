"""The commands that speak HTTP to a service, here or elsewhere."""

import typer

from app.client import files, keys, models, projects
from app.client.chat import chat
from app.client.command import command
from app.client.compare import compare
from app.client.download import download
from app.client.evaluate import evaluate
from app.client.jobs import commands as jobs
from app.client.move import commands as move
from app.client.publish import publish
from app.client.workers import workers

PANEL = "Use a service, on this machine or another"


def join(app: typer.Typer) -> None:
    for name, group in (
        ("files", files),
        ("jobs", jobs),
        ("models", models),
        ("keys", keys),
        ("projects", projects),
        ("move", move),
    ):
        app.add_typer(group.app, name=name, rich_help_panel=PANEL)
    command(app, "chat", panel=PANEL)(chat)
    command(app, "compare", panel=PANEL)(compare)
    command(app, "download", panel=PANEL)(download)
    command(app, "evaluate", panel=PANEL)(evaluate)
    command(app, "publish", panel=PANEL)(publish)
    command(app, "workers", panel=PANEL)(workers)
