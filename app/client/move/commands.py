"""`falqon move openai`. Imports wait, as pydantic's does, so that other commands start quickly."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.client.columns import Column
from app.client.command import Client, command, option
from app.client.connection import resolve_here
from app.client.errors import Misused, Refused

if TYPE_CHECKING:
    from app.client.move.account import Account

app = typer.Typer(no_args_is_help=True, help="Import files and jobs of an account elsewhere.")


@command(app, "openai", "falqon move openai --yes", connect=resolve_here)
def move_openai(
    client: Client,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Execute the plan. Default: only show it.")
    ] = False,
    keep_hyperparameters: Annotated[
        bool,
        option(
            help="Repeat epochs, batch sizes and learning rates, too. Default: they are chosen for "
            "the model and the data here."
        ),
    ] = False,
    alias: Annotated[
        bool,
        typer.Option(
            "--alias",
            help="Let each old ft: name stand for the model that its job has made here; with "
            "--yes. Names that stand for something already are left.",
        ),
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow",
            help="Instead, let each fine-tuned model's name stand here for that model there, so "
            "that the application asks this service while OpenAI answers; with --yes.",
        ),
    ] = False,
    record: Annotated[
        Path | None,
        option(
            metavar="PROMPTS.jsonl",
            help="Instead, ask --model these prompts and keep its answers as training data.",
        ),
    ] = None,
    model: Annotated[
        str | None, option(help="The fine-tuned model there to ask; with --record.")
    ] = None,
    output: Annotated[
        Path | None, option(help="Folder for the answers. Default: one named after the model.")
    ] = None,
    from_url: Annotated[
        str, typer.Option(help="API address of the account.")
    ] = "https://api.openai.com/v1",
) -> None:
    """Copy files and repeat fine-tuning jobs of the OpenAI account that OPENAI_API_KEY opens. Run
    it again after an interruption: nothing is copied or submitted twice.
    """
    from app.client.move import names
    from app.client.move.account import Account

    if (record is None) != (model is None):
        raise Misused("--record and --model go together.")
    if alias and not yes:
        raise Misused("--alias changes names here, so it needs --yes.")
    if shadow and (alias or keep_hyperparameters or record is not None):
        raise Misused("--shadow moves nothing; give it alone.")
    account = Account.from_environment(from_url)
    try:
        if account.base_url == client.api.base_url:
            raise Misused(
                f"{account.base_url} is the service itself.",
                "--from-url names the account, FALQON_BASE_URL the service to move to.",
            )
        if shadow:
            names.shadow(client, account, yes=yes)
        elif record is not None and model is not None:
            _record(client, account, record, model, output, yes=yes)
        else:
            _move(client, account, yes=yes, keep_hyperparameters=keep_hyperparameters, alias=alias)
    finally:
        account.close()


def _move(
    client: Client, account: "Account", *, yes: bool, keep_hyperparameters: bool, alias: bool
) -> None:
    from app.client.move import names, overview
    from app.client.move.carrying import add_hashes, carry_out
    from app.client.move.plan import plan_move

    plan = plan_move(client, account, keep_hyperparameters=keep_hyperparameters)
    if not yes:
        overview.show(client, plan)
        overview.show_total(client, plan)
        client.out.say("Nothing is moved yet; --yes does it.")
    else:
        overview.show_total(client, plan)
        carry_out(client, account, plan)
        add_hashes(client, plan)
        overview.show(client, plan)
        if alias:
            names.set_names(client, plan)
    client.out.show(overview.document(plan))
    if yes and plan.num_problems:
        raise Refused(
            f"Not everything is moved: {plan.num_problems} objects are not, and say why.",
            "The same command goes on with what is left.",
        )


def _record(
    client: Client, account: "Account", prompts: Path, model: str, output: Path | None, *, yes: bool
) -> None:
    from app.client.download import folder_name
    from app.client.move.prompts import num_tokens, read_prompts
    from app.client.move.recording import Recording

    recording = Recording(output or Path(f"recorded-{folder_name(model)}"))
    pending = recording.pending(read_prompts(prompts))
    client.out.say(
        f"{len(recording.answered):,} answers are in {recording.folder}; {len(pending):,} prompts "
        f"of about {num_tokens(pending):,} tokens are to be sent to {model} at {account.base_url}, "
        "which charges for them and for the answers."
    )
    if not yes:
        client.out.say("Nothing is sent yet; --yes does it.")
        return
    refusals = recording.record(account, model, pending)
    if refusals:
        columns = ("line", Column("what stands against it", "wrapped"))
        client.out.table(columns, refusals)
    client.out.say(recording.summary())
    client.out.show(recording.document(refusals))
    if refusals:
        raise Refused(
            f"{len(refusals)} prompts have no answer that can be trained on.",
            "The same command asks these again.",
        )
