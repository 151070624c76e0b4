from app.client import text
from app.client.command import Client


def workers(client: Client) -> None:
    """Show the machines that execute jobs."""
    page = client.api.get("/workers")
    rows = (
        (
            each["id"],
            f"{each['num_devices']} x {each['device']}",
            each["status"],
            each["job"],
            f"{text.duration(each['heartbeat_age_seconds'])} ago",
        )
        for each in page["data"]
    )
    client.out.page(page, ("id", "devices", "status", "job", "last seen"), rows, "No worker was seen lately.")
