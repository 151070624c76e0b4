"""Standard Webhooks signatures. A signing secret is derived from the service's own secret, so the
database holds none to leak.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable

SECRET_PREFIX = "whsec_"
HINT_LENGTH = 4


def derive(server_secret: str, endpoint_id: str, generation: int) -> str:
    digest = hmac.digest(
        server_secret.encode(), f"webhook:{endpoint_id}:{generation}".encode(), "sha256"
    )
    return SECRET_PREFIX + b64encode(digest).decode()


def hint(secret: str) -> str:
    """Return a hint that identifies the secret, and reveals a changed server secret."""
    return f"{SECRET_PREFIX}...{secret.rstrip('=')[-HINT_LENGTH:]}"


def headers(secrets: Iterable[str], event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Sign with each secret; a receiver that knows any of them accepts."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [
        hmac.digest(b64decode(secret.removeprefix(SECRET_PREFIX)), signed, "sha256")
        for secret in secrets
    ]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            f"v1,{b64encode(signature).decode()}" for signature in signatures
        ),
    }
