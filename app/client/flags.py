"""Help without a type after options that take no value."""

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption


class FlagCommand(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _hide_types(self.get_params(ctx))
        super().format_help(ctx, formatter)


class FlagGroup(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _hide_types(self.get_params(ctx))
        super().format_help(ctx, formatter)


def show_flags_without_types(app: typer.Typer) -> None:
    """Change the help of every command, those of groups too."""
    app.info.cls = FlagGroup
    for command in app.registered_commands:
        command.cls = FlagCommand
    for group in app.registered_groups:
        assert group.typer_instance is not None
        group.cls = FlagGroup
        show_flags_without_types(group.typer_instance)


def _hide_types(params: Iterable[object]) -> None:
    for param in params:
        if isinstance(param, TyperOption) and param.is_bool_flag:
            param.metavar = ""
