"""The API of Kubernetes, as much of it as a dispatcher needs."""

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from app.dispatch.starts import SchedulerUnavailable

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
PAGE = 500
_RETRIED = {httpx.codes.UNAUTHORIZED, httpx.codes.TOO_MANY_REQUESTS}
Json = dict[str, Any]


class NoCluster(Exception):
    """This process is not in a cluster, and no server is given."""


class Refused(Exception):
    """Any answer of 4xx that the same call would get again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Objects of one namespace. `server`: the address of `kubectl proxy`, which needs no token;
    empty: the server of the cluster that this pod is in, with the token of its service account.
    """

    def __init__(self, server: str, namespace: str, account: Path = ACCOUNT) -> None:
        self._token_file = None if server else account / "token"
        verify: ssl.SSLContext | bool = True
        if self._token_file is not None:
            server = _server_of_pod()
            try:
                verify = ssl.create_default_context(cafile=account / "ca.crt")
                namespace = namespace or (account / "namespace").read_text().strip()
            except OSError as error:
                raise NoCluster(f"{account}: {error.strerror or error}") from None
        self._namespace = namespace or "default"
        self._http = httpx.Client(base_url=server, verify=verify, timeout=TIMEOUT, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def get(self, group: str, kind: str, name: str) -> Json:
        return self._call("GET", self._path(group, kind, name))

    def list(self, group: str, kind: str, selector: str) -> Iterator[Json]:
        query = {"labelSelector": selector, "limit": str(PAGE)}
        while True:
            page = self._call("GET", self._path(group, kind), params=query)
            yield from page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    def create(self, group: str, kind: str, body: Json) -> None:
        self._call("POST", self._path(group, kind), json=body)

    def delete(self, group: str, kind: str, name: str, preconditions: Mapping[str, str]) -> None:
        """Delete the object with its pods, if it is still the one that was read."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": dict(preconditions),
        }
        self._call("DELETE", self._path(group, kind, name), json=options)

    def _path(self, group: str, *names: str) -> str:
        return "/".join((group, "namespaces", self._namespace, *names))

    def _call(self, method: str, path: str, **content: Any) -> Json:
        try:
            headers = {}
            if self._token_file is not None:  # The cluster replaces it every hour.
                headers["authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            answer = self._http.request(method, path, headers=headers, **content)
            body = answer.json()
        except (httpx.HTTPError, OSError) as error:
            raise SchedulerUnavailable(f"Kubernetes: {error}") from None
        except ValueError:
            body = None
        if answer.is_success and isinstance(body, dict):
            return body
        message = f"{answer.status_code} {answer.reason_phrase}"
        if isinstance(body, dict) and body.get("message"):
            message = str(body["message"])
        if answer.is_client_error and answer.status_code not in _RETRIED:
            raise Refused(answer.status_code, message)
        raise SchedulerUnavailable(f"Kubernetes: {message}")


def _server_of_pod() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise NoCluster("not in a pod of Kubernetes; give --server, as `kubectl proxy` prints it")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
