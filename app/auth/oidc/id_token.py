"""Checks of ID tokens."""

from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

# Signatures with a public key only: with a shared secret, or none, anybody could have signed.
ALGORITHMS = (
    *(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
)
LEEWAY_SECONDS = 60  # between the clocks of the two machines


def verify(id_token: str, keys: KeySet, issuer: str, client_id: str) -> dict[str, Any]:
    """Return the claims of a token that the issuer signed for this service and that has not
    expired. Raises `JoseError`.
    """
    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    claims = jwt.decode(id_token, keys, registry=registry).claims
    jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
    ).validate(claims)
    if claims.get("azp", client_id) != client_id:
        raise JoseError("the token was issued to another client")
    return claims
