"""`falqon aliases`: names that stand for models, so that no application changes with the model."""

import time
from typing import Annotated, Any

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, EvaluationFileId, argument, command, option
from app.client.errors import Misused
from app.client.polling import poll

ALIASES_PATH = "/aliases"
SWITCH_POLL_SECONDS = 1.0

app = typer.Typer(no_args_is_help=True, help="Model names: aliases for models.")

Name = Annotated[str, argument(metavar="NAME", help="Such as gpt-4o-mini or an old ft: name.")]
Everywhere = Annotated[
    bool, option("--everywhere", help="For every project; needs the installation's admin.")
]


@command(app, "list", "falqon aliases list")
def list_aliases(client: Client) -> None:
    """Show the model names of the project."""
    page = client.api.get(ALIASES_PATH)
    rows = (
        (
            each["id"],
            _models(each),
            each["version"],
            text.moment(each["created_at"]),
            "" if each["project_id"] else "every project",
        )
        for each in page["data"]
    )
    client.out.page(
        page,
        ("name", Column("stands for", "shortened"), "version", "since", "scope"),
        rows,
        "No name stands for a model; `falqon aliases set NAME MODEL` makes one.",
    )


@command(app, "set", "falqon aliases set support ft:new=5 ft:old=95")
def set_alias(
    client: Client,
    name: Name,
    models: Annotated[
        list[str],
        argument(metavar="MODEL[=WEIGHT]...", help="Several share the requests by weight."),
    ],
    everywhere: Everywhere = False,
) -> None:
    """Point a name at one model, or split its requests among several."""
    body = {"name": name, "models": [_target(each) for each in models]}
    alias = client.api.post(ALIASES_PATH + _scope(everywhere), body)
    client.out.show(alias, _sentence(alias))


@command(app, "switch", "falqon aliases switch support ft:new --if-not-worse --canary 5")
def switch_alias(
    client: Client,
    name: Name,
    model: Annotated[str, argument(metavar="MODEL", help="The result of a job.")],
    if_not_worse: Annotated[
        bool,
        option("--if-not-worse", help="Compare it on held-out rows with what the name stands for."),
    ] = False,
    canary: Annotated[
        int | None, option(help="First send this percentage of the requests, 1 to 50.")
    ] = None,
    file: EvaluationFileId = None,
    wait: Annotated[
        bool, typer.Option(help="Wait for the evaluation; exit 1 if the name is left as it is.")
    ] = True,
) -> None:
    """Point a name at a new model, if that is not worse."""
    if not if_not_worse:
        raise Misused(
            "A switch compares the models first: add --if-not-worse. Without a comparison, "
            f"`falqon aliases set {name} {model}` does it."
        )
    body = {"model": model, "canary": canary} | ({} if file is None else {"file": file})
    path = _path(name, "/switches", False)
    switch = client.api.post(path, body)
    while wait and switch["status"] == "evaluating":
        time.sleep(SWITCH_POLL_SECONDS)
        how_to_go_on = "The evaluation goes on, and decides by itself."
        switch = poll(client, f"{path}/{switch['id']}", how_to_go_on=how_to_go_on)
    client.out.show(switch, _switch_sentence(switch))
    if switch["status"] in ("kept", "rolled_back"):
        raise typer.Exit(1)


@command(app, "switches", "falqon aliases switches support")
def list_switches(client: Client, name: Name) -> None:
    """Show the switches of a name, newest first."""
    page = client.api.get(_path(name, "/switches", False))
    rows = (
        (each["model"], _status(each), each["reason"], text.moment(each["created_at"]))
        for each in page["data"]
    )
    columns = (Column("to", "shortened"), "status", Column("reason", "wrapped"), "asked")
    client.out.page(page, columns, rows, "None yet; `falqon aliases switch` begins one.")


@command(app, "rollback", "falqon aliases rollback support")
def roll_back(
    client: Client,
    name: Name,
    version: Annotated[int | None, option(help="Default: the version before.")] = None,
    everywhere: Everywhere = False,
) -> None:
    """Restore the previous version of a name, or the one before a switch."""
    body = {} if version is None else {"version": version}
    alias = client.api.post(_path(name, "/rollback", everywhere), body)
    client.out.show(alias, _sentence(alias))


@command(app, "delete", "falqon aliases delete support")
def delete_alias(client: Client, name: Name, everywhere: Everywhere = False) -> None:
    """Delete a name; `falqon aliases rollback` brings it back."""
    answer = client.api.delete(_path(name, "", everywhere))
    client.out.show(answer, f"{name} is deleted.")


@command(app, "versions", "falqon aliases versions support")
def list_versions(client: Client, name: Name, everywhere: Everywhere = False) -> None:
    """Show the versions of a name, newest first."""
    page = client.api.get(_path(name, "/versions", everywhere))
    rows = (
        (
            each["version"],
            _models(each),
            text.moment(each["created_at"]),
            each["switch"] or each["key_id"],
        )
        for each in page["data"]
    )
    client.out.page(page, ("version", Column("stood for", "shortened"), "since", "by"), rows, "")


@command(app, "usage", "falqon aliases usage support --days 30")
def show_usage(
    client: Client, name: Name, days: Annotated[int, typer.Option(help="At most 90.")] = 7
) -> None:
    """Show requests per name, day and model."""
    page = client.api.get(_path(name, "/usage", False), {"days": days})
    rows = (
        (
            each["day"],
            each["id"],
            each["requests"],
            each["errors"],
            _milliseconds(each["average_milliseconds"]),
        )
        for each in page["data"]
    )
    columns = ("day", Column("model", "shortened"), "requests", "errors", "average time")
    client.out.page(page, columns, rows, "No request has named it in that time.")


def _path(name: str, end: str, everywhere: bool) -> str:
    return f"{ALIASES_PATH}/{segment(name)}{end}{_scope(everywhere)}"


def _scope(everywhere: bool) -> str:
    return "?everywhere=true" if everywhere else ""


def _target(written: str) -> dict[str, Any]:
    model, equals, weight = written.rpartition("=")
    if not equals:
        return {"model": written}
    if not weight.isdecimal() or not weight.isascii():
        raise Misused(f"{written}: write a whole number after the =, such as {model}=5.")
    return {"model": model, "weight": int(weight)}


def _models(alias: Json) -> str:
    if not alias["models"]:
        return "(deleted)"
    if len(alias["models"]) == 1:
        return str(alias["models"][0]["model"])
    total = sum(target["weight"] for target in alias["models"])
    return ", ".join(
        f"{target['model']} ({target['weight'] / total:.1%})" for target in alias["models"]
    )


def _sentence(alias: Json) -> str:
    return f"{alias['id']} stands for {_models(alias)} (version {alias['version']})."


def _switch_sentence(switch: Json) -> str:
    if switch["status"] == "evaluating":
        return f"{switch['id']} is in progress; `falqon aliases switches` shows its outcome."
    return f"{switch['alias']}, {_status(switch)}: {switch['reason']}."


def _status(switch: Json) -> str:
    words = str(switch["status"]).replace("_", " ")
    return f"{words} at {switch['canary']} %" if words == "canary" else words


def _milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.0f} ms"
