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


def settings_page(
    request: Request, name: str, caller: Caller, path: str, **context: Any
) -> Response:
    """Render a page under the tab of this path; what the visitor may not see has no tab."""
    is_admin = caller.scope is Scope.ADMIN
    tabs = [tab for tab in TABS if is_admin or tab.needs is not Scope.ADMIN]
    return page(request, f"settings/{name}", caller, here=HERE, tabs=tabs, tab=path, **context)
