"""The page that asks for a key, or leads to the identity provider."""

from fastapi import Request, Response

from app.web.rendering import page


def sign_in_view(
    request: Request,
    *,
    refused: str = "",
    status_code: int = 200,
    next_page: str = "/",
    other: bool = False,
) -> Response:
    """`refused`: reason that the sign-in before failed for. `other`: for a key beside the one that
    the session has.
    """
    return page(
        request,
        "sign_in.html",
        status_code=status_code,
        refused=refused,
        next=next_page,
        other=other,
    )


def local_path(path: str) -> str:
    """Return the path of a page of ours: browsers read `//host` and `/\\host` as another site's."""
    is_ours = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if is_ours else "/"
