"""`falqon webhooks`: the addresses that are told of what happens to jobs."""

from typing import Annotated

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, Limit, argument, command, option
from app.client.errors import EXIT_REFUSED

WEBHOOKS_PATH = "/webhook_endpoints"
ACCEPTED = range(200, 300)  # A delivery with another answer is sent again.

app = typer.Typer(no_args_is_help=True, help="Webhook endpoints for events of jobs.")

EndpointId = Annotated[str, argument(metavar="WEBHOOK")]
After = Annotated[str | None, option(help="Start after this one.")]


@command(app, "list", "falqon webhooks list")
def list_webhooks(client: Client, limit: Limit = 20, after: After = None) -> None:
    """Show the webhooks of the project, newest first."""
    page = client.api.get(WEBHOOKS_PATH, {"limit": limit, "after": after})
    rows = (
        (
            each["id"],
            _state(each),
            each["url"],
            ", ".join(each["event_types"]),
            text.moment(each["created_at"]),
        )
        for each in page["data"]
    )
    address, events = Column("address", "shortened"), Column("events", "shortened")
    client.out.page(
        page,
        ("id", Column("status", "shortened"), address, events, "created"),
        rows,
        "There are no webhooks; `falqon webhooks add URL` makes one.",
    )


@command(app, "add", "falqon webhooks add https://example.org/hook --event fine_tuning.job.failed")
def add_webhook(
    client: Client,
    url: Annotated[str, argument(metavar="URL")],
    event: Annotated[
        list[str],
        option(help="Event to send; may be repeated. Default: the end of a job."),
    ] = [],  # noqa: B006
    name: Annotated[str | None, option(help="Default: the host of the address.")] = None,
) -> None:
    """Add a webhook and show its signing secret, this once."""
    body: Json = {"url": url}
    if event:
        body["event_types"] = event
    if name is not None:
        body["name"] = name
    endpoint = client.api.post(WEBHOOKS_PATH, body)
    client.out.show(
        endpoint,
        {
            "id": endpoint["id"],
            "address": endpoint["url"],
            "events": ", ".join(endpoint["event_types"]),
            "signing secret, shown this once": endpoint["signing_secret"],
        },
    )


@command(app, "delete", "falqon webhooks delete WEBHOOK")
def delete_webhook(client: Client, webhook_id: EndpointId) -> None:
    """Delete a webhook; nothing more is sent to it."""
    answer = client.api.delete(f"{WEBHOOKS_PATH}/{segment(webhook_id)}")
    client.out.show(answer, f"{webhook_id} is deleted.")


@command(app, "enable", "falqon webhooks enable WEBHOOK")
def enable_webhook(
    client: Client,
    webhook_id: EndpointId,
    enabled: Annotated[bool, typer.Option("--on/--off", help="Enable or disable it.")] = True,
) -> None:
    """Send to a webhook again from the next event on, as after it was disabled for failing."""
    endpoint = client.api.post(f"{WEBHOOKS_PATH}/{segment(webhook_id)}", {"enabled": enabled})
    client.out.show(endpoint, f"{endpoint['id']} is {_state(endpoint)}.")


@command(app, "test", "falqon webhooks test WEBHOOK")
def send_sample(
    client: Client,
    webhook_id: EndpointId,
    event: Annotated[str, typer.Option(help="Event of the sample.")] = (
        "fine_tuning.job.succeeded"
    ),
) -> None:
    """Send a sample of an event now; exit 1 when it is not accepted."""
    result = client.api.post(f"{WEBHOOKS_PATH}/{segment(webhook_id)}/test", {"event_type": event})
    client.out.show(result, f"{webhook_id} answered {result['status_code']}.")
    if result["status_code"] not in ACCEPTED:
        raise typer.Exit(EXIT_REFUSED)


@command(app, "deliveries", "falqon webhooks deliveries WEBHOOK")
def list_deliveries(
    client: Client, webhook_id: EndpointId, limit: Limit = 20, after: After = None
) -> None:
    """Show what was sent to a webhook, newest first, and what is still to be sent again."""
    page = client.api.get(
        f"{WEBHOOKS_PATH}/{segment(webhook_id)}/deliveries", {"limit": limit, "after": after}
    )
    rows = (
        (
            each["id"],
            each["status"],
            each["event_type"],
            each["attempts"],
            each["error"] or each["status_code"],
            text.moment(each["created_at"]),
            text.moment(each["next_attempt_at"]),
            each["fine_tuning_job_id"],
        )
        for each in page["data"]
    )
    event, answer = Column("event", "shortened"), Column("answer", "shortened")
    client.out.page(
        page,
        ("id", "status", event, "attempts", answer, "created", "next attempt", "job"),
        rows,
        "Nothing was sent to it yet.",
    )


@command(app, "resend", "falqon webhooks resend WEBHOOK DELIVERY")
def resend_delivery(
    client: Client,
    webhook_id: EndpointId,
    delivery_id: Annotated[str, argument(metavar="DELIVERY")],
) -> None:
    """Send what a delivery told once more, as a new delivery."""
    path = f"{WEBHOOKS_PATH}/{segment(webhook_id)}/deliveries/{segment(delivery_id)}/resend"
    delivery = client.api.post(path)
    client.out.show(delivery, f"{delivery['id']} is {delivery['status']}.")


def _state(endpoint: Json) -> str:
    if endpoint["enabled"]:
        return "enabled"
    reason = endpoint["disabled_reason"]
    return f"disabled: {reason}" if reason else "disabled"
