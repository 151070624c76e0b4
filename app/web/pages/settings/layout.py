from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from app.auth.caller import Caller
from app.models import Scope
from app.web.forms import EMPTY_FORM, TypedForm
from app.web.rendering import page

SETTINGS_PATH = "/settings"


@dataclass(frozen=True, slots=True)
class Tab:
    path: str
    label: str
    needs: Scope
    of_installation: bool = False  # Shown to admins of the installation alone.


TABS = (
    Tab(SETTINGS_PATH, "Projects", Scope.READ),
    Tab(f"{SETTINGS_PATH}/keys", "Keys", Scope.ADMIN),
    Tab(f"{SETTINGS_PATH}/aliases", "Model names", Scope.READ),
    Tab(f"{SETTINGS_PATH}/prices", "Prices", Scope.READ),
    Tab(f"{SETTINGS_PATH}/webhooks", "Webhooks", Scope.READ),
    Tab(f"{SETTINGS_PATH}/people", "People", Scope.ADMIN, of_installation=True),
    Tab(f"{SETTINGS_PATH}/worker_tokens", "Worker tokens", Scope.ADMIN, of_installation=True),
)


def settings_page(
    request: Request,
    name: str,
    caller: Caller,
    path: str,
    form: TypedForm = EMPTY_FORM,
    **context: Any,
) -> Response:
    """Render a page under the tab of this path; what the visitor may not see has no tab."""
    is_admin = caller.scope is Scope.ADMIN
    tabs = [
        tab
        for tab in TABS
        if (is_admin or tab.needs is not Scope.ADMIN)
        and (caller.administers_installation or not tab.of_installation)
    ]
    context |= {
        "here": SETTINGS_PATH,
        "tabs": tabs,
        "tab": path,
        "values": form.values,
        "errors": form.errors,
    }
    return page(request, f"settings/{name}", caller, form.status_code, **context)
