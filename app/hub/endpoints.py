"""Read side of the Hugging Face Hub's protocol: with `HF_ENDPOINT=<service>/hub` its libraries find
models and uploaded files here.
"""

from collections.abc import Callable, Coroutine
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from app.auth.caller import Caller
from app.base.errors import ApiError, InvalidApiKey
from app.http import downloads
from app.http.dependencies import TOUCHES_STORAGE, Reader, ServicesDep
from app.http.downloads import Content
from app.http.routes import ApiRoute
from app.hub import service, tree
from app.hub.service import Kind
from app.services import Services

Json = dict[str, Any]
WRONG_KEY = "Invalid credentials in Authorization header"  # clients know it by this sentence


class HubRoute(ApiRoute):
    """Route whose errors are as the libraries read them: in headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def explained(request: Request) -> Response:
            try:
                return await handler(request)
            except ApiError as error:
                error.headers |= _headers(request, error)
                raise

        return explained


def _headers(request: Request, error: ApiError) -> dict[str, str]:
    # A client without a key must not learn which repositories exist.
    if isinstance(error, InvalidApiKey):
        if "authorization" in request.headers:
            return {"x-error-message": WRONG_KEY}
        return {"x-error-code": service.REPOSITORY}
    return {
        "x-error-code": error.code or "",
        "x-error-message": _header_text(error.message),
    }


def _header_text(message: str) -> str:
    """Return a message, which may quote anything, as one line of printable ASCII."""
    line = " ".join(message.split())
    return "".join(letter if " " <= letter <= "~" else "?" for letter in line)


router = APIRouter(prefix="/hub", include_in_schema=False, route_class=HubRoute)


@router.get("/api/whoami-v2")
def who_am_i(caller: Reader) -> Json:
    token = {"displayName": caller.key_id, "role": str(caller.scope)}
    return {
        "type": "user",
        "id": caller.project_id,
        "name": caller.project_id,
        "fullname": caller.project_id,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    }


@router.get("/api/{kind}/{repo:path}/revision/{revision}")
def describe_revision(
    services: ServicesDep, caller: Reader, kind: Kind, repo: str, revision: str
) -> Json:
    return tree.info(service.open_repository(services, caller, kind, repo, revision))


@router.get("/api/{kind}/{repo:path}/tree/{revision}")
@router.get("/api/{kind}/{repo:path}/tree/{revision}/{folder:path}")
def list_folder(
    services: ServicesDep,
    caller: Reader,
    kind: Kind,
    repo: str,
    revision: str,
    folder: str = "",
    recursive: bool = False,
    expand: bool = False,
) -> list[Json]:
    repository = service.open_repository(services, caller, kind, repo, revision)
    entries = tree.list_folder(repository, folder.strip("/"), recursive=recursive, expand=expand)
    if entries is None:
        raise service.missing_error(repository, folder)
    return entries


@router.post("/api/{kind}/{repo:path}/paths-info/{revision}")
def describe_paths(
    services: ServicesDep,
    caller: Reader,
    kind: Kind,
    repo: str,
    revision: str,
    paths: Annotated[list[str], Form()],
    expand: Annotated[bool, Form()] = False,
) -> list[Json]:
    repository = service.open_repository(services, caller, kind, repo, revision)
    return tree.describe_paths(repository, paths, expand=expand)


@router.get("/api/{kind}/{repo:path}/refs")
def list_revisions(services: ServicesDep, caller: Reader, kind: Kind, repo: str) -> Json:
    revisions = service.list_revisions(services, caller, kind, repo)
    main = {
        "name": service.MAIN_REVISION,
        "ref": f"refs/heads/{service.MAIN_REVISION}",
        "targetCommit": revisions.pop(service.MAIN_REVISION).commit,
    }
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": repository.commit}
        for name, repository in revisions.items()
    ]
    return {"branches": [main], "converts": [], "tags": tags, "pullRequests": []}


@router.get("/api/{kind}/{repo:path}")
def describe(services: ServicesDep, caller: Reader, kind: Kind, repo: str) -> Json:
    return tree.info(service.open_repository(services, caller, kind, repo))


@router.head("/datasets/{repo:path}/resolve/{revision}/{path:path}")
@router.get("/datasets/{repo:path}/resolve/{revision}/{path:path}", dependencies=TOUCHES_STORAGE)
def download_file(
    services: ServicesDep, caller: Reader, request: Request, repo: str, revision: str, path: str
) -> Response:
    return _send(services, caller, request, "datasets", repo, revision, path)


@router.head("/{repo:path}/resolve/{revision}/{path:path}")
@router.get("/{repo:path}/resolve/{revision}/{path:path}", dependencies=TOUCHES_STORAGE)
def download_model_file(
    services: ServicesDep, caller: Reader, request: Request, repo: str, revision: str, path: str
) -> Response:
    return _send(services, caller, request, "models", repo, revision, path)


def _send(
    services: Services,
    caller: Caller,
    request: Request,
    kind: Kind,
    repo: str,
    revision: str,
    path: str,
) -> Response:
    repository = service.open_repository(services, caller, kind, repo, revision)
    entry = service.entry_at(repository, path)
    service.note_download(services, repository)
    more = {
        "x-repo-commit": repository.commit,
        "x-linked-etag": f'"{entry.sha256}"',
        "x-linked-size": str(entry.bytes),
    }
    content = Content(entry.storage_key, entry.bytes, entry.sha256, PurePosixPath(path).name)
    is_commit = revision == repository.commit
    return downloads.send(
        request,
        services.storage,
        content,
        redirects=services.settings.download_redirects,
        immutable=is_commit,
        more=more,
    )
