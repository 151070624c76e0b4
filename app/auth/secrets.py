"""Format of API keys: `ft_live_<8: id>_<32: random><6: CRC32>`, and `ft_work_…` for a worker:
scanners recognise a leaked key, and a mistyped one is refused without a query.
"""

import hashlib
import re
import secrets
import string
from zlib import crc32

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
KEY_PATTERN = re.compile(r"(ft_live_[0-9A-Za-z]{8}_[0-9A-Za-z]{32})([0-9A-Za-z]{6})")
KEY_PREFIX = "ft_live_"
WORKER_PREFIX = "ft_work_"


def generate(prefix: str = KEY_PREFIX) -> tuple[str, str]:
    """Return a public id and a secret."""
    public = _random(8)
    random = _random(32)
    body = f"{prefix}{public}_{random}"
    return public, body + _checksum(body)


def may_be_a_key(secret: str) -> bool:
    """Return False for a secret with our prefix but a wrong checksum.

    Other shapes may be an operator's own admin key.
    """
    if not secret.startswith(KEY_PREFIX):
        return True
    match = KEY_PATTERN.fullmatch(secret)
    return match is not None and _checksum(match[1]) == match[2]


def digest(secret: str) -> str:
    """Hash a secret, fast: secrets are random, not chosen by people."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = crc32(body.encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
