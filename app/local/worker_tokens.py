"""`falqon admin workers`: tokens of workers that see only the API."""

import sys
from typing import Annotated

import typer

from app.local.commands import open_session

app = typer.Typer(
    no_args_is_help=True, help="Tokens for workers that see only the API (`falqon worker --join`)."
)


@app.command("create", epilog="Example: falqon admin workers create cluster --project proj_default")
def create(
    name: Annotated[str, typer.Argument(help="Name, such as the workers' location.")],
    project: Annotated[list[str], typer.Option(help="Project for these workers; may be repeated.")],
) -> None:
    """Make a token and show it once."""
    from app.auth import worker_tokens

    with open_session() as session:
        _, secret = worker_tokens.create(session, name, project)
    sys.stdout.write(f"{secret}\n")


@app.command("list", epilog="Example: falqon admin workers list")
def list_tokens() -> None:
    """List the tokens that are not revoked, oldest first."""
    from app.auth import worker_tokens
    from app.base.terminal import one_line
    from app.base.text import minute

    with open_session(writes=False) as session:
        tokens = worker_tokens.list_all(session)
    for token in tokens:
        projects = ", ".join(token.project_ids)
        created = minute(int(token.created_at.timestamp()))
        typer.echo(f"{token.id}  {one_line(token.name)}  {projects}  {created}")


@app.command("revoke", epilog="Example: falqon admin workers revoke wtok_4f1GhJ2k")
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="As `list` names it.")],
) -> None:
    """Revoke a token; a job that its workers have is lost to them with their next call."""
    from app.auth import worker_tokens

    with open_session() as session:
        worker_tokens.revoke(session, token_id)
    typer.echo(f"{token_id} is revoked; its jobs go back to the queue when their leases end.")
