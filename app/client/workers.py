from app.client import text
from app.client.command import Client


def workers(client: Client) -> None:
    """Show the machines that execute jobs."""
    page = client.api.get("/workers")
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
