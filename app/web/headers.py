"""Security headers of every page. Scripts, styles and connections are this site's own, nothing is
inline."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
}


def attachment(name: str) -> dict[str, str]:
    """Return the header of what a browser saves under a name."""
    return {"content-disposition": f'attachment; filename="{name}"'}


def page_headers(**more: str) -> dict[str, str]:
    """`more`: further directives, with `_` for `-`."""
    policy = POLICY | {name.replace("_", "-"): value for name, value in more.items()}
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-store",
    }
