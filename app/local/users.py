"""`falqon admin users`: persons who sign in through the identity provider."""

from typing import Annotated

import typer

from app.local.commands import open_session

MAX_LISTED = 1000

app = typer.Typer(no_args_is_help=True, help="People who sign in through the identity provider.")


@app.command("list", epilog="Example: falqon admin users list")
def list_users() -> None:
    """List the people who signed in, newest first."""
    from app.base.terminal import one_line
    from app.base.text import minute
    from app.users import service

    with open_session(writes=False) as session:
        users = service.list_all(session, MAX_LISTED)
    for user in users[:MAX_LISTED]:
        name = one_line(user.email or user.subject)
        status = "active" if user.removed_at is None else "removed"
        typer.echo(f"{user.id}  {name}  {status}  {minute(int(user.signed_in_at.timestamp()))}")
    if len(users) > MAX_LISTED:
        typer.echo("and older ones", err=True)


@app.command("remove", epilog="Example: falqon admin users remove ada@example.com")
def remove_user(
    name: Annotated[
        str, typer.Argument(metavar="PERSON", help="An e-mail address, or as `list` names it.")
    ],
) -> None:
    """End a person's sessions and revoke their keys; they cannot sign in again."""
    from app.users import service

    with open_session() as session:
        user = service.find_by_name(session, name)
        service.remove(session, user.id)
    typer.echo(f"{user.id} is removed; sessions and keys end with their next request.")


@app.command("readmit", epilog="Example: falqon admin users readmit ada@example.com")
def readmit_user(
    name: Annotated[
        str, typer.Argument(metavar="PERSON", help="An e-mail address, or as `list` names it.")
    ],
) -> None:
    """Let a removed person sign in again; their keys stay revoked."""
    from app.users import service

    with open_session() as session:
        user = service.find_by_name(session, name)
        service.readmit(session, user.id)
    typer.echo(f"{user.id} may sign in again.")
