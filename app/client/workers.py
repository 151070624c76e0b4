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
            _ago(each["heartbeat_age_seconds"]),
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


def _ago(seconds: float) -> str:
    return f"{text.duration(seconds)} ago"
