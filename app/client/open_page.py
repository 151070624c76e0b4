"""`falqon open`: the dashboard in a browser."""

import webbrowser
from typing import Annotated

from app.client.api import segment
from app.client.command import Client, name_object
from app.client.references import JOB


def open_page(
    client: Client,
    job_id: Annotated[str | None, name_object("JOB", "the end of it, its suffix", JOB), JOB] = None,
) -> None:
    """Open the dashboard in a browser, or the page of a job, and print its address."""
    origin = client.api.base_url.removesuffix("/v1")
    address = f"{origin}/jobs/{segment(job_id)}" if job_id else f"{origin}/"
    client.out.show({"url": address}, address)
    if not client.out.as_json:
        webbrowser.open(address)
