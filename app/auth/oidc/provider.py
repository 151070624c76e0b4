"""The identity provider: its description and keys, fetched when they are needed, and the exchange
of a code for an ID token.
"""

import hashlib
import hmac
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import structlog
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from pydantic import AfterValidator, BaseModel

from app.auth.oidc.bounded import BoundedTransport
from app.auth.oidc.id_token import verify
from app.auth.oidc.identity import Identity, SignInRefused, read_identity
from app.auth.server_secret import server_secret
from app.base.errors import Unavailable
from app.base.setting_checks import check_provider_address
from app.base.settings import Settings

TIMEOUT_SECONDS = 5.0
# A provider that failed is not asked again for so long, and nobody waits for the one who asks: its
# timeouts would hold all threads.
RETRY_SECONDS = 5.0
WAIT_SECONDS = 2.0
EXCHANGES_AT_ONCE = 8  # a fifth of the threads that serve requests
DESCRIPTION_SECONDS = 3600.0  # age at which the description and the keys are fetched again
MAX_LOGGED = 500  # characters of an answer
INVALID_TOKEN = "The identity provider's answer is not valid for this service; the log says why."
REFUSED = "The identity provider refused this sign-in: sign in once more."
UNAVAILABLE = "The identity provider does not answer just now. Signing in with an API key works."

Address = Annotated[str, AfterValidator(check_provider_address)]
log = structlog.get_logger()


class Description(BaseModel):
    """Description of a provider, as it publishes it under its issuer."""

    issuer: str
    authorization_endpoint: Address
    token_endpoint: Address
    jwks_uri: Address
    token_endpoint_auth_methods_supported: list[str] = ["client_secret_basic"]


class TokenAnswer(BaseModel):
    id_token: str


class Provider:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = server_secret(settings).encode()
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, transport=BoundedTransport())
        self._lock = threading.Lock()
        self._exchange_slots = threading.BoundedSemaphore(EXCHANGES_AT_ONCE)
        self._fetched: tuple[Description, KeySet] | None = None
        self._stale_at = 0.0
        self._failed_at: float | None = None  # since it answered last

    def close(self) -> None:
        self._http.close()

    def authorization_url(self, state: str, redirect_uri: str) -> str:
        """Return the provider's page for a sign-in. Raises `Unavailable`."""
        description, _ = self._fetch()
        address = httpx.URL(description.authorization_endpoint)
        return str(
            address.copy_merge_params(
                {
                    "response_type": "code",
                    "client_id": self._settings.oidc_client_id,
                    "redirect_uri": redirect_uri,
                    "scope": self._settings.oidc_scopes,
                    "state": state,
                    "nonce": self._nonce(state),
                    "code_challenge": _digest(self._code_verifier(state)),
                    "code_challenge_method": "S256",
                }
            )
        )

    def identify(self, code: str, state: str, redirect_uri: str) -> Identity:
        """Exchange a code for the identity of the person. Raises `SignInRefused` and
        `Unavailable`.
        """
        if self._failed_recently():
            raise Unavailable(UNAVAILABLE)
        description, keys = self._fetch()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": self._code_verifier(state),
        }
        try:
            with self._exchange_slot():
                id_token = self._exchange(description, form)
            claims = self._verify(id_token, keys)
        except JoseError as error:
            log.warning("ID token refused", error=str(error))
            raise SignInRefused(INVALID_TOKEN) from error
        except (httpx.HTTPError, ValueError) as error:
            log.error("identity provider failed", error=str(error))
            raise Unavailable(UNAVAILABLE) from error
        return read_identity(claims, self._nonce(state), self._settings.oidc_groups_claim)

    @contextmanager
    def _exchange_slot(self) -> Iterator[None]:
        """Hold one of the few threads that may wait for the provider, and note its silence. Raises
        `Unavailable` while all of them wait.
        """
        if not self._exchange_slots.acquire(blocking=False):
            raise Unavailable(UNAVAILABLE)
        try:
            yield
        except httpx.TransportError:
            # Not for an answer, whatever its status: a visitor with a strange code could cause one.
            self._failed_at = time.monotonic()
            raise
        else:
            self._failed_at = None
        finally:
            self._exchange_slots.release()

    def _exchange(self, description: Description, form: dict[str, str]) -> str:
        """Return the ID token for a code."""
        client_id, secret = self._settings.oidc_client_id, self._settings.oidc_client_secret
        credentials: httpx.BasicAuth | None = None
        if secret is None:
            form |= {"client_id": client_id}
        elif "client_secret_basic" in description.token_endpoint_auth_methods_supported:
            credentials = httpx.BasicAuth(_quoted(client_id), _quoted(secret.get_secret_value()))
        else:
            form |= {"client_id": client_id, "client_secret": secret.get_secret_value()}
        answer = self._http.post(
            description.token_endpoint,
            data=form,
            auth=credentials or httpx.USE_CLIENT_DEFAULT,
        )
        if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
            log.warning("sign-in refused by the provider", answer=answer.text[:MAX_LOGGED])
            raise SignInRefused(REFUSED)
        return TokenAnswer.model_validate_json(answer.raise_for_status().content).id_token

    def _verify(self, id_token: str, keys: KeySet) -> dict[str, Any]:
        """Verify a token; a provider that has new keys is asked for them."""
        issuer, client_id = self._settings.oidc_issuer, self._settings.oidc_client_id
        try:
            return verify(id_token, keys, issuer, client_id)
        except (BadSignatureError, InvalidKeyIdError):
            self._stale_at = 0.0
            _, keys = self._fetch()
            return verify(id_token, keys, issuer, client_id)

    def _nonce(self, state: str) -> str:
        return self._derive("nonce", state)

    def _code_verifier(self, state: str) -> str:
        return self._derive("code verifier", state)

    def _derive(self, purpose: str, state: str) -> str:
        """Return a secret of a sign-in that its state alone does not tell: the cookie holds no
        other.
        """
        return _base64(hmac.digest(self._secret, f"{purpose} {state}".encode(), "sha256"))

    def _fetch(self) -> tuple[Description, KeySet]:
        """Return the description and the keys, from the provider if those at hand are old."""
        if not self._lock.acquire(timeout=WAIT_SECONDS if self._failed_at is None else 0):
            raise Unavailable(UNAVAILABLE)
        try:
            if self._fetched is None or time.monotonic() >= self._stale_at:
                self._fetched = self._refresh()
            return self._fetched
        finally:
            self._lock.release()

    def _refresh(self) -> tuple[Description, KeySet]:
        if self._failed_recently():
            raise Unavailable(UNAVAILABLE)
        try:
            fetched = self._read_description()
        except (httpx.HTTPError, ValueError, LookupError, TypeError, JoseError) as error:
            self._failed_at = time.monotonic()
            log.error("identity provider failed", error=str(error))
            raise Unavailable(UNAVAILABLE) from error
        self._failed_at = None
        self._stale_at = time.monotonic() + DESCRIPTION_SECONDS
        return fetched

    def _failed_recently(self) -> bool:
        failed_at = self._failed_at
        return failed_at is not None and time.monotonic() < failed_at + RETRY_SECONDS

    def _read_description(self) -> tuple[Description, KeySet]:
        issuer = self._settings.oidc_issuer
        address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        description = Description.model_validate(self._get(address))
        if description.issuer != issuer:
            raise ValueError(f"{address} describes the issuer {description.issuer!r}, not {issuer}")
        return description, KeySet.import_key_set(self._get(description.jwks_uri))

    def _get(self, address: str) -> Any:
        return self._http.get(address).raise_for_status().json()


def _digest(verifier: str) -> str:
    return _base64(hashlib.sha256(verifier.encode()).digest())


def _base64(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _quoted(text: str) -> str:
    """Return a part of a client's credentials as OAuth puts it into a header."""
    return quote(text, safe="")
