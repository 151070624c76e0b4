"""Identity that the claims of a verified ID token state."""

from dataclasses import dataclass
from typing import Any

from app.base.errors import Forbidden

MAX_SUBJECT_CHARACTERS = 255  # as the standard has it
MAX_EMAIL_CHARACTERS = 320
MAX_GROUPS = 5_000


class SignInRefused(Forbidden):
    code = "sign_in_refused"


@dataclass(frozen=True, slots=True)
class Identity:
    issuer: str
    subject: str
    email: str | None
    groups: frozenset[str]


def read_identity(claims: dict[str, Any], nonce: str, groups_claim: str) -> Identity:
    """Return the identity in the claims of a token for this very sign-in. Raises
    `SignInRefused`.
    """
    if claims.get("nonce") != nonce:
        raise SignInRefused("The answer belongs to another sign-in: sign in once more.")
    if len(claims["sub"]) > MAX_SUBJECT_CHARACTERS:
        raise SignInRefused("The identity provider's subject is too long.")
    return Identity(claims["iss"], claims["sub"], _email(claims), _groups(claims, groups_claim))


def _email(claims: dict[str, Any]) -> str | None:
    """Return an address that the provider does not call unverified."""
    email = claims.get("email")
    is_fit = isinstance(email, str) and 0 < len(email) <= MAX_EMAIL_CHARACTERS
    return email if is_fit and claims.get("email_verified", True) is True else None


def _groups(claims: dict[str, Any], name: str) -> frozenset[str]:
    """Return the person's groups; a single text is one, such as the domain of an account."""
    if name == "email":
        # It grants access here, so that nobody may choose it freely.
        email = _email(claims) if claims.get("email_verified") is True else None
        return frozenset([email] if email else [])
    if name in (claims.get("_claim_names") or {}):
        raise SignInRefused(
            f"The identity provider left out the groups, as there are too many. Let it put into "
            f"the claim '{name}' only the groups that are assigned to this service."
        )
    groups = claims.get(name) or []
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise SignInRefused(
            f"The claim '{name}' of the identity provider is not a list of names. "
            "FALQON_OIDC_GROUPS_CLAIM names the claim with the groups."
        )
    if len(groups) > MAX_GROUPS:
        raise SignInRefused(f"The claim '{name}' names more than {MAX_GROUPS:,} groups.")
    return frozenset(groups)
