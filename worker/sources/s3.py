"""Objects in a bucket: an address that is signed with the project's own key, and never with what
this service has in its environment.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import obstore
from obstore.store import S3Store

from app.files.addresses import S3Address

if TYPE_CHECKING:
    from obstore.store import S3Credential

REGION = "us-east-1"
LIFETIME = timedelta(hours=6)


def url_of(address: S3Address, key: dict[str, Any]) -> str:
    """Return an address that reads the object; without a key, one of a public object."""
    region = str(key.get("region") or REGION)
    # The AWS documentation spells the endpoint of a region like this.
    endpoint = str(key.get("endpoint") or f"https://s3.{region}.amazonaws.com").rstrip("/")
    if not key:
        return f"{endpoint}/{address.bucket}/{quote(address.key)}"
    credential: S3Credential = {
        "access_key_id": key["access_key_id"],
        "secret_access_key": key["secret_access_key"],
        "token": key.get("session_token"),
        "expires_at": None,
    }
    store = S3Store(
        address.bucket,
        endpoint=endpoint,
        region=region,
        virtual_hosted_style_request=False,
        # The caller that reads it decides whether plain HTTP is allowed.
        client_options={"allow_http": True},
        credential_provider=lambda: credential,
    )
    return obstore.sign(store, "GET", address.key, expires_in=LIFETIME)
