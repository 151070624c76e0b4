"""The result of a range test on a terminal: its curve, its proposal and the command to go on."""

from app.client import text
from app.client.api import Json
from app.client.command import Client

CURVE_WIDTH = 40


def show_range_test(client: Client, job: Json) -> None:
    result = job["range_test"]
    points = result["points"]
    if points:
        changes = [point["loss_change"] for point in points]
        first, last = points[0]["learning_rate"], points[-1]["learning_rate"]
        curve = text.sparkline(changes, CURVE_WIDTH)
        client.out.say(f"{first:.1e} {curve} {last:.1e}  loss {min(changes):+.3f} at its lowest")
    message = result["message"]
    client.out.say(f"{message[0].upper()}{message[1:]}.")
    client.out.say(f"Next: {next_command(job)}", "dim")


def next_command(job: Json) -> str:
    """Return the command that trains with the proposal, or shows the records if there is none."""
    rate = job["range_test"]["proposal"]
    if rate is None:
        return f"falqon files show {job['training_file']}"
    return f"falqon jobs clone {job['id']} --set find_rate=false --learning-rate {rate:g} --watch"
