"""An identity provider on this machine: it signs everybody in as the person that a test chose, and
checks what a real one checks: client, redirect address, PKCE and that a code is used once.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.support.local_server import LocalServer, QuietHandler

CLIENT_ID = "falqon"
CLIENT_SECRET = "a secret: of/the+client"


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", auto_kid=True)


def sign(claims: dict[str, Any], key: ECKey) -> str:
    return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)


class IdentityProvider(LocalServer):
    def __init__(self) -> None:
        self.person: dict[str, Any] = {"sub": "ada", "email": "ada@example.com"}
        self.keys = [new_key()]  # the first one signs, all are published
        self.forge: Callable[[dict[str, Any]], str] | None = None  # makes tokens in its place
        self.changes: dict[str, Any] = {}  # claims of the next tokens; None leaves one out
        self.token_body: bytes | None = None  # in place of a token
        self.is_down = False
        self.num_fetched = 0  # descriptions
        self.num_exchanges = 0  # requests for a token
        self.answers_tokens = threading.Event()  # until it is set, these requests wait
        self.answers_tokens.set()
        self._codes: dict[str, dict[str, str]] = {}
        super().__init__(self._handler())

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a service that trusts this provider."""
        return {
            "oidc_issuer": self.url,
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": CLIENT_SECRET,
            "oidc_name": "Acme",
        }

    def be(self, subject: str, *groups: str, **claims: Any) -> None:
        """Let the next sign-in be this person's."""
        email = f"{subject}@example.com"
        self.person = {"sub": subject, "email": email, "groups": list(groups)} | claims

    def authorize(self, query: str) -> str:
        """Return the address to go back to, with a code."""
        asked = dict(parse_qsl(query, strict_parsing=True))
        assert asked["response_type"] == "code"
        assert (asked["client_id"], asked["code_challenge_method"]) == (CLIENT_ID, "S256")
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = {"code": code, "state": asked["state"]}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def redeem(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """Return an ID token for a code; None for a wrong request."""
        asked = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        credentials = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        client = [unquote(part) for part in credentials.split(":")]
        if asked is None or client != [CLIENT_ID, CLIENT_SECRET]:
            return None
        if (challenge, form["redirect_uri"]) != (asked["code_challenge"], asked["redirect_uri"]):
            return None
        return {"access_token": "a", "token_type": "Bearer", "id_token": self.token(asked["nonce"])}

    def token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            **self.person,
            **self.changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return self.forge(claims) if self.forge else sign(claims, self.keys[0])

    def _handler(provider) -> type[BaseHTTPRequestHandler]:
        class Handler(QuietHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if provider.is_down:
                    self.send(503)
                elif parts.path == "/.well-known/openid-configuration":
                    provider.num_fetched += 1
                    self._send_json(
                        {
                            "issuer": provider.url,
                            "authorization_endpoint": f"{provider.url}/authorize?tenant=acme",
                            "token_endpoint": f"{provider.url}/token",
                            "jwks_uri": f"{provider.url}/keys",
                        }
                    )
                elif parts.path == "/keys":
                    self._send_json(KeySet(list(provider.keys)).as_dict())
                elif parts.path == "/authorize":
                    self.send(302, location=provider.authorize(parts.query))
                else:
                    self.send(404)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"])).decode()
                provider.num_exchanges += 1
                provider.answers_tokens.wait()
                form = {name: values[0] for name, values in parse_qs(content).items()}
                answer = provider.redeem(form, self.headers["authorization"])
                if provider.token_body is not None:
                    self.send(200, provider.token_body)
                elif answer is None:
                    self.send(400, b'{"error": "invalid_grant"}')
                else:
                    self._send_json(answer)

            def _send_json(self, content: Any) -> None:
                self.send(200, json.dumps(content).encode(), content_type="application/json")

        return Handler


@contextmanager
def serving_identities() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    try:
        yield provider
    finally:
        provider.close()
