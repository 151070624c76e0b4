from typing import Annotated

from app.client import text
from app.client.api import Json, segment
from app.client.command import Client, argument, option
from app.client.errors import Misused


def workers(client: Client) -> None:
    """Show the machines that execute jobs."""
    _show(client, client.api.get("/workers"))


def drain(
    client: Client,
    name: Annotated[str, argument(metavar="WORKER", help="A worker or a whole machine.")],
    now: Annotated[bool, option("--now", help="Stop its job after a checkpoint.")] = False,
    off: Annotated[bool, option("--off", help="Accept jobs again.")] = False,
) -> None:
    """Let a worker take no more jobs; needs a key that administers the installation."""
    if now and off:
        raise Misused("Give one of --now and --off.")
    body = {"draining": None if off else "stop" if now else "finish"}
    _show(client, client.api.post(f"/workers/{segment(name)}/drain", body))


def _show(client: Client, page: Json) -> None:
    rows = (
        (
            each["id"],
            f"{each['status']}{', draining' if each.get('draining') else ''}",
            f"{each['num_devices'] * each['max_gpus']} x {each['device']}",
            f"{text.duration(each['heartbeat_age_seconds'])} ago",
            text.cards(each),
            each["job"],
        )
        for each in page["data"]
    )
    client.out.page(
        page,
        ("id", "status", "devices", "last seen", "in use", "job"),
        rows,
        "No worker has reported lately.",
    )
