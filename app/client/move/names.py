"""Old `ft:` names, which stand here for the models that their jobs made."""

from app.client.command import Client
from app.client.move.plan import MovePlan


def set_names(client: Client, plan: MovePlan) -> None:
    """Let the name of each model there stand for the model of the same job here.

    Names that stand for something already are left: they may have been changed on purpose.
    """
    standing = {alias["id"] for alias in client.api.get("/aliases", repeatable=True)["data"]}
    for job in plan.jobs:
        name, model = job.origin.fine_tuned_model, (job.here or {}).get("fine_tuned_model")
        if not name or job.here is None or name in standing:
            continue
        if model:
            client.api.post("/aliases", {"name": name, "model": model})
            client.out.say(f"{name} stands for {model}")
        else:
            client.out.say(
                f"{name} stands for nothing yet: {job.here['id']} is {job.here['status']}; run "
                "this again when it has succeeded"
            )
