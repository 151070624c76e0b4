from app.client.command import Client


def workers(client: Client) -> None:
    """Show the machines of the service."""
    page = client.api.get("/workers")
    columns = [name for name in (page["data"] or [{}])[0] if name != "object"]
    rows = ((worker.get(name) for name in columns) for worker in page["data"])
    client.out.page(page, columns, rows, "No worker has reported yet.")
