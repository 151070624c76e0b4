"""`falqon admin` in this process, on the installation of a test."""

from collections.abc import Mapping

from click.testing import Result
from typer.testing import CliRunner

from app.cli import app


def falqon_admin(environment: Mapping[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(app, ["admin", *arguments], env=dict(environment))
