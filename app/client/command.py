"""Every command of the client takes the same three options and ends the same way."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from app.client.api import Api
from app.client.completion import complete
from app.client.connection import Connection, resolve
from app.client.errors import ClientError, Misused
from app.client.output import Output
from app.client.references import BATCH, FILE, JOB, MODEL, Reference

P = ParamSpec("P")
NO_TEXT = "surrogates not allowed"  # Python's words for bytes of an argument that are no UTF-8

# Parameters whose default needs no words in the help.
option = functools.partial(typer.Option, show_default=False)
argument = functools.partial(typer.Argument, show_default=False)

BaseUrl = Annotated[
    str | None,
    option(
        envvar="FALQON_BASE_URL",
        help="Address of the service; else OPENAI_BASE_URL, else the one `falqon up` runs here.",
    ),
]
ApiKey = Annotated[
    str | None,
    option(envvar="FALQON_API_KEY", help="API key; else OPENAI_API_KEY, else this machine's own."),
]
Limit = Annotated[int, typer.Option(help="Maximum number to show.")]


def name_object(metavar: str, ways: str, reference: Reference) -> Any:
    """Return an argument that names an object, which a shell completes from the service."""
    return argument(
        metavar=metavar,
        help=f"Its id, {ways}, or @last.",
        autocompletion=complete(reference),
    )


JobId = Annotated[str, name_object("JOB", "the end of it, its suffix", JOB), JOB]
JobIds = Annotated[list[str], name_object("JOB", "the end of it, its suffix", JOB), JOB]
FileId = Annotated[str, name_object("FILE", "the end of it, its name", FILE), FILE]
ModelId = Annotated[str, name_object("MODEL", "the end of a fine-tuned one's", MODEL), MODEL]
BatchId = Annotated[str, name_object("BATCH", "the end of it", BATCH), BATCH]
EvaluationFileId = Annotated[
    str | None,
    option(
        metavar="FILE",
        help="Its id, the end of it, its name, or @last. Default: the job's held-out rows.",
        autocompletion=complete(FILE),
    ),
    FILE,
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's own objects as JSON.")]


class Client:
    """The values that every command uses."""

    def __init__(self, api: Api, out: Output) -> None:
        self.api = api
        self.out = out


def command(
    group: typer.Typer,
    name: str,
    example: str,
    *,
    panel: str | None = None,
    connect: Callable[[str | None, str | None], Connection] = resolve,
) -> Callable[[Callable[Concatenate[Client, P], None]], Callable[Concatenate[Client, P], None]]:
    """Register a function of a `Client` and its own options as `falqon <group> <name>`, with an
    example for its help.
    """

    def register(
        function: Callable[Concatenate[Client, P], None],
    ) -> Callable[Concatenate[Client, P], None]:
        own = inspect.signature(function)

        @functools.wraps(function)
        def run(
            *, base_url: str | None, api_key: str | None, as_json: bool, **arguments: Any
        ) -> None:
            out = Output(as_json=as_json)
            try:
                api = Api(connect(base_url, api_key))
                try:
                    values = _resolve(api, own, _collect(own, arguments))
                    function(Client(api, out), **values)  # type: ignore[call-arg]
                finally:
                    api.close()
            except ClientError as error:
                out.error(error)
                raise typer.Exit(error.exit_code) from None
            except UnicodeEncodeError as error:
                if error.reason != NO_TEXT:
                    raise
                misuse = Misused("What was typed, or the name of a file, is no UTF-8 text.")
                out.error(misuse)
                raise typer.Exit(misuse.exit_code) from None

        _show(run, own)
        words = " ".join((function.__doc__ or "").split())
        group.command(name, help=words, epilog=f"Example: {example}", rich_help_panel=panel)(run)
        return function

    return register


def _show(run: Callable[..., None], own: inspect.Signature) -> None:
    """Let typer see the function's own options and then ours."""
    _, *parameters = own.parameters.values()
    options = [option for parameter in parameters for option in _options_of(parameter)]
    options += [
        _option("base_url", BaseUrl, None),
        _option("api_key", ApiKey, None),
        _option("as_json", AsJson, False),
    ]
    run.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the parameter as an option, or the fields of one that is a dataclass."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    return [_option(each.name, each.type, _default(each)) for each in fields(parameter.annotation)]


def _collect(own: inspect.Signature, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, with those that are fields of a dataclass inside it."""
    arguments = arguments.copy()
    for parameter in own.parameters.values():
        if is_dataclass(options := parameter.annotation):
            values = {each.name: arguments.pop(each.name) for each in fields(options)}
            arguments[parameter.name] = options(**values)  # type: ignore[operator]
    return arguments


def _resolve(api: Api, own: inspect.Signature, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, with ids in place of what a person has written for them."""
    for parameter in own.parameters.values():
        for mark in getattr(parameter.annotation, "__metadata__", ()):
            written = arguments.get(parameter.name)
            if isinstance(mark, Reference) and written is not None:
                arguments[parameter.name] = _resolve_each(api, mark, written)
    return arguments


def _resolve_each(api: Api, reference: Reference, written: str | list[str]) -> str | list[str]:
    if isinstance(written, str):
        return reference.resolve(api, written)
    return [reference.resolve(api, each) for each in written]


def _default(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return option.default


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
