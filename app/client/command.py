"""Every command of the client takes the same three options and ends the same way."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from app.client.api import Api
from app.client.connection import resolve
from app.client.errors import ClientError
from app.client.output import Output

P = ParamSpec("P")

BaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar="FALQON_BASE_URL",
        help="Address of the service; else OPENAI_BASE_URL, else the one `falqon up` runs here.",
        show_default=False,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="FALQON_API_KEY", help="API key; else OPENAI_API_KEY, else this machine's own.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's own objects as JSON.")]


class Client:
    """What a command works with."""

    def __init__(self, api: Api, out: Output) -> None:
        self.api = api
        self.out = out


def command(
    group: typer.Typer, name: str, *, panel: str | None = None
) -> Callable[[Callable[Concatenate[Client, P], None]], Callable[Concatenate[Client, P], None]]:
    """Register a function of a `Client` and its own options as `falqon <group> <name>`."""

    def register(function: Callable[Concatenate[Client, P], None]) -> Callable[Concatenate[Client, P], None]:
        @functools.wraps(function)
        def run(*, base_url: str | None, api_key: str | None, as_json: bool, **arguments: Any) -> None:
            out = Output(as_json=as_json)
            try:
                api = Api(resolve(base_url, api_key))
                try:
                    function(Client(api, out), **arguments)  # type: ignore[call-arg]
                finally:
                    api.close()
            except ClientError as error:
                out.error(error)
                raise typer.Exit(error.exit_code) from None

        _show(run, inspect.signature(function))
        group.command(name, rich_help_panel=panel)(run)
        return function

    return register


def _show(run: Callable[..., None], own: inspect.Signature) -> None:
    """Let typer see the function's own options and then ours."""
    _, *options = own.parameters.values()
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (("base_url", None, BaseUrl), ("api_key", None, ApiKey), ("as_json", False, AsJson))
    ]
    parameters = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options] + common
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
