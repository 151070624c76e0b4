from typing import Any, NamedTuple

from fastapi import Request, Response

from app.auth.caller import Caller
from app.models import Scope
from app.web.rendering import page

HERE = "/settings"


class Tab(NamedTuple):
    path: str
    label: str
    needs: Scope


TABS = (
    Tab(HERE, "Projects", Scope.READ),
    Tab(f"{HERE}/keys", "Keys", Scope.ADMIN),
    Tab(f"{HERE}/prices", "Prices", Scope.READ),
    Tab(f"{HERE}/webhooks", "Webhooks", Scope.READ),
)


def settings_page(request: Request, name: str, caller: Caller, tab: str, **context: Any) -> Response:
    """`tab`: the path of the one it stands under. What the visitor may not see has none."""
    tabs = [one for one in TABS if one.needs is not Scope.ADMIN or caller.scope is Scope.ADMIN]
    return page(request, f"settings/{name}", caller, here=HERE, tabs=tabs, tab=tab, **context)
