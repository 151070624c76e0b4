"""`falqon mcp`: the service as tools of an agent."""

import ipaddress
from typing import Annotated

import typer

from app.client.api import Api
from app.client.command import Client
from app.client.connection import Connection, resolve, with_version
from app.client.errors import Misused, NoConnection

DEFAULT_PORT = 8010


def connect(base_url: str | None, api_key: str | None) -> Connection:
    """Return the connection; an address alone is enough where every caller brings a key."""
    try:
        return resolve(base_url, api_key)
    except NoConnection:
        if not base_url:
            raise
        return Connection(with_version(base_url), "")


def mcp(
    client: Client,
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve HTTP at /mcp; each caller sends a key of their own."),
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on, with --http.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on, with --http.", min=1, max=65_535)
    ] = DEFAULT_PORT,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Permit a --host that other machines can reach.")
    ] = False,
) -> None:
    """Offer the service to an agent as tools of the Model Context Protocol, on stdin and stdout or
    over HTTP.
    """
    try:
        import mcp as _sdk  # noqa: F401
    except ImportError:
        raise Misused(
            "falqon mcp needs the SDK of the protocol.",
            "Install the wheel with its extra mcp: uv tool install './falqon-….whl[mcp]'",
        ) from None
    connection = client.api.connection
    if http:
        if not (allow_remote or _is_loopback(host)):
            raise Misused(
                f"{host} can be reached from other machines; add --allow-remote if that is what "
                "you want, behind a proxy with TLS: keys travel through it."
            )
        from app.client.agents.door import serve

        client.out.note(f"Tools at http://{host}:{port}/mcp, for {connection.base_url}.")
        serve(connection.base_url, host, port)
        return
    if not connection.api_key:
        raise NoConnection(f"There is no API key for {connection.base_url}.", "Set FALQON_API_KEY.")
    from app.client.agents.files import upload_path
    from app.client.agents.server import build_server

    build_server(lambda _context: Api(connection), upload_path).run()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
