"""Old `ft:` names, which stand here for the models that their jobs made; or, before that, for the
old models themselves, so that the application asks here while they still answer.
"""

from app.client.api import Json
from app.client.columns import Column
from app.client.command import Client
from app.client.move.account import Account
from app.client.move.plan import MovePlan

ALIASES = "/aliases"
UPSTREAM = "upstream:"
SWITCH = "falqon aliases switch {} {} --if-not-worse"


def shadow(client: Client, account: Account, *, yes: bool) -> None:
    """Let the name of each fine-tuned model there stand for that model, asked through this service.
    Names that stand for something already are left.
    """
    standing = _standing(client)
    jobs = account.list_all("/fine_tuning/jobs")
    names = sorted({str(job["fine_tuned_model"]) for job in jobs if job.get("fine_tuned_model")})
    for name in names:
        if yes and name not in standing:
            alias = {"name": name, "model": UPSTREAM + name}
            standing[name] = client.api.post(ALIASES, alias)
    rows = [(name, _models_of(standing.get(name))) for name in names]
    columns = ("model there", Column("its name stands for", "shortened"))
    names_here = {"object": "move.shadow", "names": dict(rows)}
    client.out.show(names_here, lambda: client.out.table(columns, rows))
    if not yes:
        client.out.say("Nothing is set yet; --yes lets each name without a model stand for it.")
    elif rows:
        client.out.say(f"`{SWITCH.format('NAME', 'MODEL')}` moves one of them to a model here.")


def _standing(client: Client) -> dict[str, Json]:
    """Return the names that stand for something."""
    return {alias["id"]: alias for alias in client.api.get(ALIASES, repeatable=True)["data"]}


def _models_of(alias: Json | None) -> str:
    return ", ".join(target["model"] for target in alias["models"]) if alias else ""


def set_names(client: Client, plan: MovePlan) -> None:
    """Let the name of each model there stand for the model of the same job here.

    Names that stand for something already are left: they may have been changed on purpose.
    """
    standing = _standing(client)
    for job in plan.jobs:
        name, model = job.origin.fine_tuned_model, (job.here or {}).get("fine_tuned_model")
        if not name or job.here is None:
            continue
        if name in standing:
            if model and _models_of(standing[name]) == UPSTREAM + name:
                client.out.say(f"{name} is asked there; `{SWITCH.format(name, model)}` changes it")
            continue
        if model:
            client.api.post(ALIASES, {"name": name, "model": model})
            client.out.say(f"{name} stands for {model}")
        else:
            client.out.say(
                f"{name} stands for nothing yet: {job.here['id']} is {job.here['status']}; run "
                "this again when it has succeeded"
            )
