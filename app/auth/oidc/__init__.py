"""Sign-in through an identity provider: OpenID Connect with an authorization code and PKCE."""

from typing import TYPE_CHECKING

from app.base.settings import Settings, WrongSettings

if TYPE_CHECKING:
    from app.auth.oidc.provider import Provider

NOT_INSTALLED = (
    "FALQON_OIDC_ISSUER is set, but sign-in through an identity provider is not installed: "
    "install the wheel with its extra oidc, such as './falqon-….whl[worker,oidc]'"
)


def open_provider(settings: Settings) -> "Provider | None":
    """Return the provider of the settings, if there is one. Raises `WrongSettings`."""
    if not settings.oidc_issuer:
        return None
    try:
        from app.auth.oidc.provider import Provider
    except ModuleNotFoundError as error:
        raise WrongSettings([NOT_INSTALLED]) from error
    return Provider(settings)
