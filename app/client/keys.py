from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, Limit, argument, command, option
from app.client.errors import Misused

DAY_SECONDS = 86_400

app = typer.Typer(
    no_args_is_help=True, help="API keys of a service; needs a key with the right `admin`."
)


class KeyScope(StrEnum):
    METRICS = "metrics"
    INFER = "infer"
    READ = "read"
    AGENT = "agent"
    WRITE = "write"
    ADMIN = "admin"


Project = Annotated[str | None, option(help="Default: the project of your own key.")]


@command(app, "create", "falqon keys create laptop --scope read --expires-in-days 90")
def create_key(
    client: Client,
    name: Annotated[str, argument(help="Purpose of the key.")],
    scope: Annotated[
        KeyScope, typer.Option(help="Scope; each includes those before it.")
    ] = KeyScope.WRITE,
    project: Project = None,
    expires_in_days: Annotated[int | None, option(metavar="DAYS", help="Default: never.")] = None,
    daily_budget: Annotated[
        str | None,
        option(metavar="USD", help="Most that the jobs of an agent may cost on a day (UTC)."),
    ] = None,
) -> None:
    """Make an API key and show it, this once."""
    if expires_in_days is not None and expires_in_days < 1:
        raise Misused("--expires-in-days must be at least 1.")
    expires_at = (
        None
        if expires_in_days is None
        else int(datetime.now(UTC).timestamp()) + expires_in_days * DAY_SECONDS
    )
    body = {
        "name": name,
        "scope": scope.value,
        "project_id": project,
        "expires_at": expires_at,
        "daily_budget_usd": daily_budget,
    }
    key = client.api.post(
        "/api_keys", {field: value for field, value in body.items() if value is not None}
    )
    client.out.show(key, key["secret"])


@command(app, "list", "falqon keys list")
def list_keys(
    client: Client,
    project: Project = None,
    limit: Limit = 20,
    after: Annotated[str | None, option(help="Start after this key.")] = None,
) -> None:
    """Show the keys that work, newest first; never their secrets."""
    page = client.api.get("/api_keys", {"project_id": project, "limit": limit, "after": after})
    rows = (
        (
            key["id"],
            key["name"],
            _rights(key),
            text.moment(key["created_at"]),
            text.moment(key.get("last_used_at")),
            text.moment(key.get("expires_at")) or "never",
            key["project_id"],
        )
        for key in page["data"]
    )
    client.out.page(
        page,
        ("id", Column("name", "shortened"), "scope", "created", "last used", "expires", "project"),
        rows,
        "There are no keys.",
    )


def _rights(key: Json) -> str:
    """Return the scope, and the budget of an agent; an older service sends none."""
    budget = key.get("daily_budget_usd")
    return str(key["scope"]) if budget is None else f"{key['scope']}, {text.usd(budget)} a day"


@command(app, "revoke", "falqon keys revoke KEY")
def revoke_key(
    client: Client,
    key_id: Annotated[str, argument(metavar="KEY", help="Its id, not its secret.")],
) -> None:
    """Revoke a key; it stops working at once."""
    answer = client.api.delete(f"/api_keys/{segment(key_id)}")
    client.out.show(answer, f"{key_id} is revoked.")
