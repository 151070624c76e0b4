"""Addresses of one artifact for tools that send no headers: signed with the secret of the service,
good for a while.

Everyone who has the address has the bytes, so it opens nothing else, and it expires with the API
key that requested it.
"""

import hashlib
from typing import NamedTuple

from itsdangerous import BadData, URLSafeSerializer

from app.base.errors import NotFound


class Link(NamedTuple):
    key_id: str  # API key that requested the link
    model_id: str
    name: str
    sha256: str
    expires_at: int  # seconds since 1970, as the database counts them


class Links:
    def __init__(self, server_secret: str) -> None:
        self._serializer = URLSafeSerializer(
            server_secret, salt="artifact-link", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def token(self, link: Link) -> str:
        token = self._serializer.dumps(link)
        if isinstance(token, str):
            return token
        return token.decode()

    def read(self, token: str) -> Link:
        """Return the link of a token with a valid signature; the caller checks the expiry. Raises
        `NotFound`.
        """
        try:
            return Link(*self._serializer.loads(token))
        except (BadData, TypeError):
            raise unknown() from None


def unknown() -> NotFound:
    return NotFound(
        "This link does not exist or is no longer valid; create a new one.",
        code="link_not_found",
    )
