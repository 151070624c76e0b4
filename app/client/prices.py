from app.client.columns import Column
from app.client.command import Client


def prices(client: Client) -> None:
    """Show what an hour of each device costs; jobs are charged the price that is in force."""
    page = client.api.get("/prices")
    rows = (
        (
            each["device"],
            f"${each['usd_per_device_hour']}" if each["kind"] != "unpriced" else "unpriced",
            "in force" if each["in_force"] else "",
            each["provider"],
            each["kind"],
            each["as_of"],
            each["source"],
        )
        for each in page["data"]
    )
    client.out.page(
        page,
        ("device", "per hour", "", "provider", "kind", "as of", Column("source", "shortened")),
        rows,
        "There are no prices.",
    )
